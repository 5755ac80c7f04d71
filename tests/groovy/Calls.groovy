import org.codehaus.groovy.ast.AnnotatedNode
import org.codehaus.groovy.ast.ClassCodeVisitorSupport
import org.codehaus.groovy.ast.ClassNode
import org.codehaus.groovy.ast.CodeVisitorSupport
import org.codehaus.groovy.ast.MethodNode
import org.codehaus.groovy.ast.expr.ClassExpression
import org.codehaus.groovy.ast.expr.ConstructorCallExpression
import org.codehaus.groovy.ast.expr.Expression
import org.codehaus.groovy.ast.expr.GStringExpression
import org.codehaus.groovy.ast.expr.MethodCallExpression
import org.codehaus.groovy.ast.expr.StaticMethodCallExpression
import org.codehaus.groovy.classgen.GeneratorContext
import org.codehaus.groovy.control.CompilePhase
import org.codehaus.groovy.control.SourceUnit
import org.codehaus.groovy.control.customizers.CompilationCustomizer

/** Notes what a script calls and makes, to be held against what the sandbox allows. */
class Calls extends CompilationCustomizer {
    final Set<String> steps = new TreeSet<>()
    final Set<String> methods = new TreeSet<>()
    final Set<String> constructors = new TreeSet<>()
    final Set<String> annotations = new TreeSet<>()
    final Set<String> interpolated = new TreeSet<>()

    Calls() { super(CompilePhase.SEMANTIC_ANALYSIS) }

    @Override
    void call(SourceUnit source, GeneratorContext context, ClassNode node) {
        new Visitor(source, node.methods*.name as Set).visitClass(node)
    }

    private class Visitor extends ClassCodeVisitorSupport {
        final SourceUnit sourceUnit
        private final Set<String> own

        Visitor(SourceUnit sourceUnit, Set<String> own) {
            this.sourceUnit = sourceUnit
            this.own = own
        }

        @Override
        void visitMethod(MethodNode node) {
            if (node.name != 'main') { super.visitMethod(node) }  // which Groovy adds
        }

        @Override
        void visitAnnotations(AnnotatedNode node) {
            // The base class of a script comes by an annotation.
            annotations.addAll(node.annotations*.classNode*.name - 'groovy.transform.BaseScript')
        }

        @Override
        void visitMethodCallExpression(MethodCallExpression call) {
            def name = call.methodAsString
            if (call.implicitThis) {
                if (!(name in own)) { steps << name }
            } else {
                def receiver = call.objectExpression
                methods << (receiver instanceof ClassExpression ? "${receiver.type.name}.${name}".toString() : name)
            }
            if (name in ['sh', 'bat', 'powershell'] && hasGString(call.arguments)) { interpolated << call.text }
            super.visitMethodCallExpression(call)
        }

        @Override
        void visitStaticMethodCallExpression(StaticMethodCallExpression call) {
            methods << "${call.ownerType.name}.${call.method}".toString()
            super.visitStaticMethodCallExpression(call)
        }

        @Override
        void visitConstructorCallExpression(ConstructorCallExpression call) {
            if (!call.specialCall) { constructors << call.type.name }
            super.visitConstructorCallExpression(call)
        }

        private static boolean hasGString(Expression arguments) {
            boolean found = false
            arguments.visit(new CodeVisitorSupport() {
                @Override
                void visitGStringExpression(GStringExpression expression) { found = true }
            })
            return found
        }
    }
}
