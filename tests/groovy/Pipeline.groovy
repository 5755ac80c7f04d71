/** `pipeline { … }`: stages one after the other, `post { always }` after each and after all. */
class Pipeline {
    private final Steps script
    private Throwable first

    Pipeline(Steps script) { this.script = script }

    void run(Closure body) {
        def whole = read(body, new Section(script))
        if (whole.hasNode) {
            script.world.onNode { runAll(whole) }
        } else {
            runAll(whole)
        }
        if (first != null) { throw first }
    }

    private void runAll(Section whole) {
        for (stage in whole.stages) {
            if (first == null) { runStage(stage.name, read(stage.body, new Section(script))) }
        }
        if (whole.afterwards) { attempt(whole.afterwards) }
    }

    private void runStage(String name, Section stage) {
        script.stage(name) {
            if (stage.condition != null && !stage.condition()) { return }
            attempt(stage.work)
            if (stage.afterwards) { attempt(stage.afterwards) }
        }
    }

    /** What fails settles the build's result at once, so that `post` sees it. */
    private void attempt(Closure work) {
        try {
            work()
        } catch (Throwable e) {
            script.world.build.result = World.resultOf(e)
            if (first == null) { first = e }
        }
    }

    static Section read(Closure body, Section section) {
        body.delegate = section
        body.resolveStrategy = Closure.DELEGATE_FIRST
        body()
        return section
    }

    /** What stands in `pipeline` or in a `stage`. */
    static class Section {
        final List<Map> stages = []
        final String any = 'any'
        final String none = 'none'
        boolean hasNode = false
        Closure work
        Closure condition
        Closure afterwards

        private final Steps script

        Section(Steps script) { this.script = script }

        void agent(String which) { hasNode = which == any }

        void agent(Closure body) {
            hasNode = true
            read(body, new Agent(script))
        }

        void parameters(Closure body) { read(body, this) }

        void stages(Closure body) { read(body, this) }

        void stage(String name, Closure body) { stages << [name: name, body: body] }

        void steps(Closure body) { work = body }

        void when(Closure body) { read(body, this) }

        void expression(Closure body) { condition = body }

        void post(Closure body) { read(body, this) }

        void always(Closure body) { afterwards = body }
    }

    static class Agent extends Section {
        Agent(Steps script) { super(script) }

        void label(String name) { assert name }

        void kubernetes(Closure body) { read(body, this) }

        void yaml(String pod) { assert pod.contains('containers:') }
    }
}
