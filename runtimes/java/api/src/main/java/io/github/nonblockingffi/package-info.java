/**
 * What Java code in an nginx worker can ask of lua-resty-nonblocking-ffi.
 *
 * <p>Nothing of it is needed: a class with a method {@code byte[] call(byte[])} is
 * enough. {@code nbffi.load} names the class and the method,
 * {@code entry = "com.acme.Echo#call"}.
 *
 * <p><b>The method</b> is static, or that of an instance. It takes the request, as
 * {@code byte[]} or {@link java.nio.ByteBuffer}, and, if it likes, a
 * {@link io.github.nonblockingffi.Context}. It returns {@code byte[]},
 * {@code ByteBuffer} (what is between its position and its limit), nothing, or a
 * {@link java.util.concurrent.CompletionStage} of these, which any thread may
 * complete later. It is called by several threads at a time.
 *
 * <p>A {@code ByteBuffer} request is read-only. It refers to memory of nginx if the
 * request is large: neither it nor a slice of it may be used when the call has
 * ended.
 *
 * <p><b>The class</b> is instantiated once for each runtime, unless the method is
 * static, by a constructor that takes a {@link io.github.nonblockingffi.Host}, the
 * {@code config} as a {@code String}, or nothing. If it is
 * {@link java.lang.AutoCloseable} it is closed with the runtime.
 */
package io.github.nonblockingffi;
