package jdbc;

/** A service. */
public interface Greeter {
    String greet();

    /** Its provider. */
    final class Polite implements Greeter {
        public Polite() {}

        @Override
        public String greet() {
            return "good day";
        }
    }
}
