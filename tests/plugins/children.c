/*
 * children - starts processes in every way that C has: "<way> <what>".
 *
 *   fork, vfork, spawn, clone   run the shell with a command, and go on: its id
 *   stay                        fork a child that pauses and is no other program
 *   exit, killed                the same with a child that ends at once, or is
 *                               ended by SIGTERM: how it ended
 *   system, popen               the exit code of a command
 *   seize                       replace the handlers of SIGTERM and SIGPIPE
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "nonblocking_ffi.h"

extern char **environ;

static void
seized(int number)
{
    (void) number;
}

static int
init(const nbffi_host *host, void **state, char *err, uint64_t err_size)
{
    uint64_t  len;

    (void) err;
    (void) err_size;
    if (strcmp(host->config(host, &len), "seize") == 0) {
        signal(SIGTERM, seized);
        signal(SIGPIPE, SIG_DFL);
    }
    *state = (void *) host;
    return 0;
}

static pid_t
start(const char *way, char **argv)
{
    pid_t  pid = -1;

    if (strcmp(way, "spawn") == 0) {
        return posix_spawn(&pid, argv[0], NULL, NULL, argv, environ) == 0 ? pid
                                                                          : -1;
    }
    if (strcmp(way, "fork") == 0) {
        pid = fork();

    } else if (strcmp(way, "vfork") == 0) {
        pid = vfork();

    } else if (strcmp(way, "clone") == 0) {
        pid = (pid_t) syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    }
    if (pid == 0) {
        execv(argv[0], argv);
        _exit(127);
    }
    return pid;
}

static int
wait_for(pid_t pid)
{
    int  status;

    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        return -errno;
    }
    return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

static int
call(void *state, nbffi_task task, const void *request, uint64_t len)
{
    int               answer = -1;
    char              text[512], way[16], reply[16], *argv[4], *what;
    FILE             *pipe;
    const nbffi_host *host = state;

    snprintf(text, sizeof(text), "%.*s", (int) len, (const char *) request);
    what = strchr(text, ' ');
    what = what == NULL ? text + strlen(text) : what + 1;
    snprintf(way, sizeof(way), "%.*s", (int) strcspn(text, " "), text);
    argv[0] = "/bin/sh";
    argv[1] = "-c";
    argv[2] = what;
    argv[3] = NULL;

    if (strcmp(way, "stay") == 0) {
        answer = fork();
        if (answer == 0) {
            for ( ;; ) {
                pause();
            }
        }

    } else if (strcmp(way, "exit") == 0) {
        answer = fork();
        if (answer == 0) {
            _exit(atoi(what));
        }
        answer = wait_for(answer);

    } else if (strcmp(way, "killed") == 0) {
        /* Also the child that is not another program. */
        answer = fork();
        if (answer == 0) {
            for ( ;; ) {
                pause();
            }
        }
        kill(answer, SIGTERM);
        answer = wait_for(answer);

    } else if (strcmp(way, "system") == 0) {
        answer = system(what);
        answer = answer == -1 ? -errno : WEXITSTATUS(answer);

    } else if (strcmp(way, "popen") == 0) {
        pipe = popen(what, "r");
        answer = pipe == NULL ? -1 : pclose(pipe);
        answer = answer == -1 ? -errno : WEXITSTATUS(answer);

    } else {
        answer = start(way, argv);
    }
    snprintf(reply, sizeof(reply), "%d", answer);
    return host->respond(task, reply, strlen(reply));
}

static const nbffi_plugin plugin = {
    .abi_version = NBFFI_ABI_VERSION,
    .size = sizeof(nbffi_plugin),
    .init = init,
    .call = call,
};

NBFFI_EXPORT const nbffi_plugin *
nbffi_plugin_entry(uint32_t host_abi_version)
{
    (void) host_abi_version;
    return &plugin;
}
