package io.github.nonblockingffi.runtime;

import java.io.IOException;
import java.net.MalformedURLException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Objects;

/**
 * The classes of one runtime. It is the context class loader of the threads that
 * run it, and of those that it starts. So the output of a thread is logged for its
 * runtime.
 */
final class Loader extends URLClassLoader {
    private static final StackWalker WALKER =
            StackWalker.getInstance(StackWalker.Option.RETAIN_CLASS_REFERENCE);

    static {
        registerAsParallelCapable();
    }

    private final String name;
    private final String places;
    private final long runtime;

    /** Without a name of its own: that would be in every line of a stack trace. */
    private Loader(String name, long runtime, List<String> places, URL[] urls) {
        super(urls, Loader.class.getClassLoader());
        this.name = name;
        this.runtime = runtime;
        this.places = String.join(":", places);
    }

    /**
     * A loader for jars and folders; {@code folder/*} is all jars in that folder.
     */
    static Loader open(String name, long runtime, List<String> places) throws Refusal {
        List<URL> urls = new ArrayList<>();
        for (String place : places) {
            if (place.equals("*") || place.endsWith("/*")) {
                addJars(urls, place);
            } else {
                urls.add(url(Path.of(place)));
            }
        }
        return new Loader(name, runtime, places, urls.toArray(new URL[0]));
    }

    private static void addJars(List<URL> urls, String place) throws Refusal {
        Path folder = Path.of(place.substring(0, place.length() - 1));
        List<Path> jars = new ArrayList<>();
        try (DirectoryStream<Path> files = Files.newDirectoryStream(folder, "*.{jar,JAR}")) {
            for (Path file : files) {
                jars.add(file);
            }
        } catch (IOException failure) {
            throw new Refusal(
                    "class_path: " + place + ": cannot list the folder (" + failure + ")");
        }
        if (jars.isEmpty()) {
            throw new Refusal("class_path: " + place + ": there are no jars");
        }
        Collections.sort(jars);
        for (Path jar : jars) {
            urls.add(url(jar));
        }
    }

    private static URL url(Path path) throws Refusal {
        if (!Files.exists(path)) {
            throw new Refusal("class_path: there is no " + path.toAbsolutePath()
                    + " (or nginx's user may not see it)");
        }
        if (!Files.isReadable(path)) {
            throw new Refusal("class_path: nginx's user may not read " + path.toAbsolutePath());
        }
        try {
            return path.toUri().toURL();
        } catch (MalformedURLException impossible) {
            throw new Refusal("class_path: " + path + ": " + impossible);
        }
    }

    /** The class path as it was given. */
    String places() {
        return places;
    }

    @Override
    public String toString() {
        return "classes of " + name;
    }

    /** The runtime that the calling thread works for; 0 if that is not known. */
    static long currentRuntime() {
        Loader found = of(Thread.currentThread().getContextClassLoader());
        if (found == null) {
            found = ofCaller();
        }
        return found == null ? 0 : found.runtime;
    }

    /** That of the innermost code on the stack that belongs to a runtime, or null. */
    static Loader ofCaller() {
        return WALKER.walk(frames -> frames
                .map(frame -> of(frame.getDeclaringClass().getClassLoader()))
                .filter(Objects::nonNull)
                .findFirst()
                .orElse(null));
    }

    /** The runtime's loader among a loader and its parents; null if there is none. */
    static Loader of(ClassLoader loader) {
        for (; loader != null; loader = loader.getParent()) {
            if (loader instanceof Loader found) {
                return found;
            }
        }
        return null;
    }
}
