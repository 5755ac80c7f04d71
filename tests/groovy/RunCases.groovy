/*
 * Runs pipelines: `groovy -cp tests/groovy RunCases.groovy CASES ANSWERS`. Both are JSON. Many cases share one process,
 * since its start takes longer than they do; those that wait, wait at the same time.
 */
import java.util.concurrent.Callable
import java.util.concurrent.Executors

import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import org.codehaus.groovy.control.CompilerConfiguration
import org.codehaus.groovy.control.customizers.ImportCustomizer

def asked = new JsonSlurper().parse(new File(args[0]), 'UTF-8')

def compile(String text, String name, Calls calls) {
    def configuration = new CompilerConfiguration(scriptBaseClass: 'Steps', sourceEncoding: 'UTF-8')
    def imports = new ImportCustomizer().addStarImports('org.jenkinsci.plugins.workflow.libs')
    configuration.addCompilationCustomizers(imports, calls)
    return new GroovyClassLoader(getClass().classLoader, configuration).parseClass(text, name)
}

def classes = [:]
def calls = [:]
(asked.scripts + asked.library).each { name, text ->
    calls[name] = new Calls()
    classes[name] = compile(text, name.replaceAll(/\W/, '_') + '.groovy', calls[name])
}

def instance(Class type, Binding binding) {
    def script = (Script) type.newInstance()
    script.binding = binding
    return script
}

def run(Map given, Map classes, Collection<String> library) {
    def world = new World(given)
    def binding = new Binding(
        world: world, currentBuild: world.build, env: new Env(world), params: given.params, scm: given.scm)
    library.each { world.library[it] = instance(classes[it], binding) }
    def began = System.currentTimeMillis()
    String error = null
    try {
        instance(classes[given.script], binding).run()
    } catch (Throwable e) {
        world.build.result = World.resultOf(e)
        error = e.toString()
    }
    return [
        result: world.build.currentResult, error: error, log: world.log.toString(), unrunnable: world.unrunnable,
        seconds: (System.currentTimeMillis() - began) / 1000, files: world.workspace.list().sort(),
    ]
}

def pool = Executors.newFixedThreadPool(asked.at_once)
def answers = asked.cases.collectEntries { id, given ->
    [id, pool.submit({ run(given, classes, asked.library.keySet()) } as Callable)]
}.collectEntries { id, future -> [id, future.get()] }
pool.shutdown()
def listed = calls.collectEntries { name, it ->
    [name, it.properties.subMap(['steps', 'methods', 'constructors', 'annotations', 'interpolated'])]
}
new File(args[1]).setText(JsonOutput.toJson([cases: answers, calls: listed]), 'UTF-8')
