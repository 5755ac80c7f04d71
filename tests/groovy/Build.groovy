/** `currentBuild`. Like Jenkins' own, its result can only get worse. */
class Build {
    private static final List<String> ORDER = ['SUCCESS', 'UNSTABLE', 'FAILURE', 'NOT_BUILT', 'ABORTED']

    private String worst

    final long timeInMillis = 1795435200000L
    final long startTimeInMillis = 1795435200500L

    String getResult() { worst }

    String getCurrentResult() { worst ?: 'SUCCESS' }

    void setResult(String result) {
        if (ORDER.indexOf(result) > ORDER.indexOf(worst)) { worst = result }
    }
}
