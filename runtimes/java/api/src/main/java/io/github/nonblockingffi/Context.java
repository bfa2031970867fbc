package io.github.nonblockingffi;

import java.time.Duration;
import java.util.Optional;

/**
 * One call: what its caller still wants, and a status for the response.
 *
 * <p>A method that takes a {@code Context} behind its request is given one. It may
 * be used from any thread, and be kept: when the call has ended,
 * {@link #isCancelled} is true and nothing else has an effect.
 */
public interface Context extends Host {
    /**
     * Whether nobody waits for the response any more: the caller has timed out
     * or has cancelled the call, or the call has ended. Cheap; a long
     * computation should ask often.
     *
     * <p>A caller that went away without a word (a client that hung up) cancels
     * nothing; {@link #remainingNanos} bounds such a call.
     *
     * @return true if the work may stop
     */
    boolean isCancelled();

    /**
     * How long the caller still waits.
     *
     * @return nanoseconds, 0 if the deadline has passed,
     *         {@link Long#MAX_VALUE} if there is none
     */
    long remainingNanos();

    /**
     * The same as a duration, which is what clients of databases and the like
     * want for a timeout.
     *
     * @return the duration, zero if the deadline has passed, empty if there is
     *         none
     */
    default Optional<Duration> remaining() {
        long nanos = remainingNanos();
        return nanos == Long.MAX_VALUE ? Optional.empty() : Optional.of(Duration.ofNanos(nanos));
    }

    /**
     * Gives the response a status: Lua gets {@code response, nil, code, message}.
     * It is for responses; to fail, throw a {@link CallException}.
     *
     * @param code a number of your own
     * @param message a text of your own
     */
    void setStatus(long code, String message);
}
