
/** The steps and global variables that a pipeline finds, as far as the snippets use them. */
abstract class Steps extends Script {
    World getWorld() { (World) binding.getVariable('world') }

    // ---- steps that run something

    void sh(String script) { world.shell(script) }

    void sh(Map arguments) { world.shell(text(arguments)) }

    void bat(String script) { world.windows('bat', script) }

    void powershell(Map arguments) { world.windows('powershell', text(arguments)) }

    private static String text(Map arguments) {
        assert (arguments.keySet() - ['script', 'label']).isEmpty()
        return arguments.script
    }

    boolean isUnix() {
        world.need('hudson.Launcher')
        !world.given.windows
    }

    void echo(String message) { world.log << message << '\n' }

    Map checkout(Map scm) { scm }

    // ---- steps around others

    def withEnv(List overrides, Closure body) {
        def more = overrides.collectEntries { override ->
            def (name, value) = override.toString().split('=', 2)
            [name, world.expanded(value)]
        }
        world.within(more, body)
    }

    def withCredentials(List bindings, Closure body) {
        if (world.given.no_credentials_plugin) {
            throw new NoSuchMethodError("No such DSL method 'withCredentials' found")
        }
        def more = bindings.collectEntries { binding ->
            def secret = world.given.credentials[binding.credentialsId]
            if (secret == null) {
                throw new IOException("Could not find credentials entry with ID '${binding.credentialsId}'")
            }
            [binding.variable, secret]
        }
        world.within(more, body)
    }

    Map string(Map arguments) { arguments }

    def timeout(Map arguments, Closure body) {
        assert arguments.unit == 'SECONDS'
        world.deadline = System.currentTimeMillis() + arguments.time * 1000
        try {
            return body()
        } finally {
            world.deadline = null
        }
    }

    def node(Closure body) { world.onNode(body) }

    def container(String name, Closure body) { body() }

    def stage(String name, Closure body) { world.within([STAGE_NAME: name], body) }

    def script(Closure body) { body() }

    void pipeline(Closure body) { new Pipeline(this).run(body) }

    /** A global variable of a shared library, which is called like a step. */
    def methodMissing(String name, Object arguments) {
        def variable = world.library[name]
        if (variable == null) { throw new NoSuchMethodError("No such DSL method '${name}' found") }
        return variable.invokeMethod('call', arguments)
    }
}
