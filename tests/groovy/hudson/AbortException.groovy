package hudson

/** What a step throws when it fails, as `sh` does. */
class AbortException extends IOException {
    AbortException(String message) { super(message) }
}
