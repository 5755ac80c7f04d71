package org.jenkinsci.plugins.workflow.steps

/** What goes through a pipeline when it is stopped, by a person or by `timeout`. */
class FlowInterruptedException extends InterruptedException {
    final String outcome

    FlowInterruptedException(String outcome) { this.outcome = outcome }

    /** In the sandbox this takes an approval. */
    String getResult() { throw new SecurityException('Scripts not permitted to use FlowInterruptedException getResult') }

    /** Likewise. */
    List getCauses() { throw new SecurityException('Scripts not permitted to use FlowInterruptedException getCauses') }
}
