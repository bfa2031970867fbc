"""What tests/children.rs calls: `call(b"<way> <what>")` starts a process, and
answers with its id or with how it has ended."""

import asyncio
import concurrent.futures
import multiprocessing
import os
import signal
import subprocess
import threading
import time

import nonblocking_ffi

forking = multiprocessing.get_context("fork")
kept = []


def start(what):
    """A program that lives on."""
    kept.append(subprocess.Popen(what, shell=True))
    return kept[-1].pid


def bare(what):
    """The same in the other way that the module has, with all descriptors."""
    kept.append(subprocess.Popen(what, shell=True, close_fds=False))
    return kept[-1].pid


def stay(what):
    """A child that is not another program."""
    kept.append(forking.Process(target=time.sleep, args=(int(what),)))
    kept[-1].start()
    return kept[-1].pid


def run(what):
    return subprocess.run(what, shell=True).returncode


def killed(what):
    """Ends by SIGTERM, which `terminate` sends."""
    program = subprocess.Popen(["sleep", what])
    program.terminate()
    return -program.wait(60)


def fork_killed(what):
    child = forking.Process(target=time.sleep, args=(int(what),))
    child.start()
    child.terminate()
    child.join(60)
    return -child.exitcode


def myself(code):
    """A thread that has asked for itself, and so is known to Python, forks."""
    threading.current_thread()
    child = forking.Process(target=work, args=(int(code),))
    child.start()
    child.join(60)
    return child.exitcode


def loop(what):
    async def program():
        process = await asyncio.create_subprocess_shell(what)
        return await process.wait()
    return asyncio.run(program())


def join(code):
    child = forking.Process(target=os._exit, args=(int(code),))
    child.start()
    child.join(60)
    return f"{child.exitcode} {child.is_alive()}"


def work(number):
    return number * number


def pool(number):
    """Each of its processes ends after one task."""
    with forking.Pool(2, maxtasksperchild=1) as pool:
        return str(sum(pool.map(work, range(int(number)), chunksize=1)))


def queue(number):
    """Pipes of Python's stay open in a child, and close when it ends."""
    ours, theirs = forking.Pipe()
    child = forking.Process(target=lambda: theirs.send(work(int(number))))
    child.start()
    theirs.close()
    answer = ours.recv()
    try:
        ours.recv()
    except EOFError:
        child.join(60)
        return f"{answer} {child.exitcode}"


def leave(code):
    """The package is there in any child, whatever has started it."""
    nonblocking_ffi.log("a child leaves")
    os._exit(code)


def start_by(method):
    """Exit codes and a signal, of children that are started in this way."""
    context = multiprocessing.get_context(method)
    codes = []
    for target, arguments in (
            (os._exit, (7,)), (leave, (8,)), (time.sleep, (3600,))):
        child = context.Process(target=target, args=arguments)
        child.start()
        if target is time.sleep:
            child.terminate()
        child.join(60)
        codes.append(child.exitcode)
    return codes


def warm(number):
    """An executor whose processes are forked by a thread that ends."""
    executor = concurrent.futures.ProcessPoolExecutor(2, forking)
    thread = threading.Thread(
        target=lambda: list(executor.map(work, range(int(number)))))
    thread.start()
    thread.join()
    while thread.native_id in map(int, os.listdir("/proc/self/task")):
        time.sleep(0.001)
    kept.append(executor)
    return " ".join(map(str, executor._processes))


def use(number):
    return str(sum(kept[-1].map(work, range(int(number)))))


def alarm(_):
    """The handler of a child's own is called, in a child."""
    def body():
        signal.signal(signal.SIGUSR1, lambda *_: os._exit(42))
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(60)
    child = forking.Process(target=body)
    child.start()
    child.join(60)
    return child.exitcode


def call(request):
    way, _, what = request.decode().partition(" ")
    return str(globals()[way](what))
