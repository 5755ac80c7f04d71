import java.nio.file.Files
import java.util.concurrent.TimeUnit

import hudson.AbortException
import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException

/** What is around a pipeline: the build, its environment, its workspace, its log, the processes on its node. */
class World {
    final Map given
    final File workspace
    final Build build = new Build()
    final StringBuilder log = new StringBuilder()
    final List<Map> unrunnable = []
    Map<String, String> variables
    Map<String, Object> library = [:]
    int nodes = 0
    Long deadline = null

    World(Map given) {
        this.given = given
        workspace = new File((String) given.workspace)
        variables = new LinkedHashMap((Map) given.variables)
    }

    /** Runs a script as Jenkins does: written to a file, with `-xe`, standard error in the log too. */
    void shell(String script) {
        need('hudson.FilePath')
        if (stopped(script)) { throw new FlowInterruptedException('ABORTED') }
        run(['sh', '-xe'], script)
        settle(script)
    }

    /** Windows' shells are not here: what would have been run is noted. PowerShell runs where it is installed. */
    void windows(String shell, String script) {
        need('hudson.FilePath')
        if (stopped(script)) { throw new FlowInterruptedException('ABORTED') }
        unrunnable << [shell: shell, script: script, variables: new LinkedHashMap(variables)]
        if (shell == 'powershell' && given.pwsh) { run([given.pwsh, '-NoProfile', '-NonInteractive', '-File'], script) }
        if (script.contains('deploy.cmd') && given.deploy == 'failure') {
            throw new AbortException('script returned exit code 1')
        }
        settle(script)
    }

    /** What only a node gives to a step, as the step asks for it. */
    void need(String context) {
        if (nodes < 1) { throw new IOException("Required context class ${context} is missing") }
    }

    /** Somebody stops the build while this step runs. */
    private boolean stopped(String script) {
        def word = script.contains('deploy.') ? given.deploy : script.contains('build.sh') ? given.build : given.report
        return word == 'aborted'
    }

    /** What a publisher of test results would find after the step. */
    private void settle(String script) {
        def word = script.contains('deploy.') ? given.deploy : script.contains('build.sh') ? given.build : null
        if (word == 'unstable') { build.result = 'UNSTABLE' }
    }

    private void run(List<String> interpreter, String script) {
        def file = Files.createTempFile('script', '.ps1').toFile()
        file.setText(script, 'UTF-8')
        def builder = new ProcessBuilder(interpreter + [file.path]).directory(workspace).redirectErrorStream(true)
        builder.environment().clear()
        builder.environment().putAll(variables)
        def process = builder.start()
        process.outputStream.close()
        def reader = Thread.start { process.inputStream.eachLine('UTF-8') { line -> log << line << '\n' } }
        try {
            def left = deadline == null ? 60000L : deadline - System.currentTimeMillis()
            if (!process.waitFor(left, TimeUnit.MILLISECONDS)) {
                process.descendants().forEach { it.destroyForcibly() }
                process.destroyForcibly()
                throw new FlowInterruptedException('ABORTED')
            }
            reader.join()
        } finally {
            file.delete()
        }
        if (process.exitValue() != 0) { throw new AbortException("script returned exit code ${process.exitValue()}") }
    }

    /** `$X` and `${X}` as Jenkins writes them out in several places; `$$` is a `$`. */
    String expanded(String value) {
        value.replaceAll(/\$(\w+|\{[\w.]+\}|\$)/) { whole, inner ->
            inner == '$' ? '$' : variables.getOrDefault(inner.replaceAll(/[{}]/, ''), whole)
        }
    }

    def within(Map<String, String> more, Closure body) {
        def before = variables
        variables = before + more
        try {
            return body()
        } finally {
            variables = before
        }
    }

    def onNode(Closure body) {
        nodes++
        try {
            return body()
        } finally {
            nodes--
        }
    }

    static String resultOf(Throwable e) {
        e instanceof FlowInterruptedException ? e.outcome : 'FAILURE'
    }
}
