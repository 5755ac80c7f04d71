/** `env`: what is set where the pipeline is just now. */
class Env {
    private final World around

    Env(World around) { this.around = around }

    def propertyMissing(String name) { around.variables[name] }

    void propertyMissing(String name, Object value) { around.variables[name] = String.valueOf(value) }
}
