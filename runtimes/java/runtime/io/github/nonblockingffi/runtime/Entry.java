package io.github.nonblockingffi.runtime;

import io.github.nonblockingffi.Context;
import io.github.nonblockingffi.Host;
import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.lang.reflect.Constructor;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletionStage;

/**
 * The method behind {@code "com.acme.Echo#call"}, and the object it is called on.
 *
 * @param method {@code (Object request, Context) -> Object}
 * @param instance {@code null} if the method is static
 */
record Entry(
        MethodHandle method,
        boolean takesBuffer,
        boolean takesContext,
        boolean returnsFuture,
        Object instance) {
    private static final String DEFAULT_METHOD = "call";
    private static final MethodType ERASED =
            MethodType.methodType(Object.class, Object.class, Context.class);

    /** Finds the class and the method, and makes the object. */
    static Entry find(String name, JavaRuntime runtime) throws Throwable {
        int hash = name.indexOf('#');
        String typeName = hash < 0 ? name : name.substring(0, hash);
        String methodName = hash < 0 ? DEFAULT_METHOD : name.substring(hash + 1);
        Class<?> type;
        try {
            type = Class.forName(typeName, true, runtime.loader());
        } catch (ClassNotFoundException missing) {
            throw new Refusal("there is no class " + typeName + " in class_path "
                    + runtime.loader().places());
        }
        Method method = method(type, methodName);
        boolean isStatic = Modifier.isStatic(method.getModifiers());
        Object instance = isStatic ? null : instance(type, runtime);

        method.setAccessible(true);
        MethodHandle handle = MethodHandles.lookup().unreflect(method);
        if (!isStatic) {
            handle = handle.bindTo(instance);
        }
        boolean takesContext = method.getParameterCount() == 2;
        if (!takesContext) {
            handle = MethodHandles.dropArguments(handle, 1, Context.class);
        }
        return new Entry(
                handle.asType(ERASED),
                method.getParameterTypes()[0] == ByteBuffer.class,
                takesContext,
                isFuture(method.getReturnType()),
                instance);
    }

    private static boolean isFuture(Class<?> type) {
        return CompletionStage.class.isAssignableFrom(type);
    }

    private static boolean fits(Method method) {
        Class<?>[] takes = method.getParameterTypes();
        Class<?> returns = method.getReturnType();
        return !Modifier.isAbstract(method.getModifiers())
                && (takes.length == 1 || takes.length == 2 && takes[1] == Context.class)
                && (takes[0] == byte[].class || takes[0] == ByteBuffer.class)
                && (returns == byte[].class || ByteBuffer.class.isAssignableFrom(returns)
                        || returns == void.class || isFuture(returns));
    }

    /** The one method of that name that can be called. */
    private static Method method(Class<?> type, String name) throws Refusal {
        List<Method> named = named(type, name);
        List<Method> fit = new ArrayList<>();
        for (Method method : named) {
            if (fits(method)) {
                fit.add(method);
            }
        }
        if (fit.size() == 1) {
            return fit.get(0);
        }
        String what = "class " + type.getName() + " has ";
        if (fit.size() > 1) {
            throw new Refusal(what + "several methods " + list(fit)
                    + ": give the one to be called a name of its own");
        }
        throw new Refusal(what + (named.isEmpty()
                ? "no method " + name
                : "no " + name + " that can be called, only " + list(named))
                + ": it must take byte[] or ByteBuffer, and Context behind it if it likes, and "
                + "return byte[], ByteBuffer, void or a CompletionStage");
    }

    /** All methods of that name, inherited ones too; not those that are overridden. */
    private static List<Method> named(Class<?> type, String name) {
        Map<List<Class<?>>, Method> found = new LinkedHashMap<>();
        for (Class<?> at = type; at != null && at != Object.class; at = at.getSuperclass()) {
            add(found, at.getDeclaredMethods(), name);
        }
        add(found, type.getMethods(), name);
        return new ArrayList<>(found.values());
    }

    private static void add(Map<List<Class<?>>, Method> found, Method[] methods, String name) {
        for (Method method : methods) {
            if (method.getName().equals(name) && !method.isSynthetic()) {
                found.putIfAbsent(List.of(method.getParameterTypes()), method);
            }
        }
    }

    private static String list(List<Method> methods) {
        List<String> signatures = new ArrayList<>();
        for (Method method : methods) {
            signatures.add(signature(method));
        }
        Collections.sort(signatures);
        return String.join(", ", signatures);
    }

    private static String signature(Method method) {
        List<String> takes = new ArrayList<>();
        for (Class<?> type : method.getParameterTypes()) {
            takes.add(type.getSimpleName());
        }
        return method.getReturnType().getSimpleName() + " " + method.getName() + "("
                + String.join(", ", takes) + ")";
    }

    private static Object instance(Class<?> type, JavaRuntime runtime) throws Throwable {
        if (Modifier.isAbstract(type.getModifiers())) {
            throw new Refusal("class " + type.getName() + " is abstract");
        }
        Map<Class<?>, Object> offers = new LinkedHashMap<>();
        offers.put(Host.class, runtime);
        offers.put(String.class, runtime.config());
        for (Map.Entry<Class<?>, Object> offer : offers.entrySet()) {
            Constructor<?> constructor = constructor(type, offer.getKey());
            if (constructor != null) {
                return make(constructor, offer.getValue());
            }
        }
        Constructor<?> plain = constructor(type);
        if (plain == null) {
            throw new Refusal("class " + type.getName()
                    + " has no constructor that takes a Host, a String or nothing");
        }
        return make(plain);
    }

    private static Constructor<?> constructor(Class<?> type, Class<?>... parameters) {
        try {
            return type.getDeclaredConstructor(parameters);
        } catch (NoSuchMethodException none) {
            return null;
        }
    }

    private static Object make(Constructor<?> constructor, Object... arguments) throws Throwable {
        constructor.setAccessible(true);
        try {
            return constructor.newInstance(arguments);
        } catch (InvocationTargetException wrapper) {
            throw wrapper.getCause();
        }
    }
}
