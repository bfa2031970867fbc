//! Very many calls of Lua functions of every kind, in VMs that are replaced all the
//! time. Many calls fail, are given up, or are stopped. Resources in use return to their
//! former level. `NBFFI_SOAK_CALLS` is the number of calls, as in `soak.rs`.

use std::collections::BTreeMap;

use support::{Nginx, Size, eventually, process};

/// Calls made by one request.
const PER_REQUEST: u64 = 1_000;
/// One of so many calls warms up. The resources in use afterwards are the base.
const WARM_UP: u64 = 3;

/// 1000 calls from 50 light threads, in many ways. Prints how often each result came.
const SOAK: &str = r#"
local jobs = require "vm_jobs"
local MB = 1048576
local random = math.random

local function load(name, options)
    options.runtime, options.name = "lua", name
    options.module = options.module or "vm_jobs"
    return assert(nbffi.load(options))
end

local plain = load("plain", {})
-- VMs that serve ten tasks, that have little memory, that are run away with.
local brief = load("brief", { vm_recycle_tasks = 10 })
local small = load("small", { vm_max_memory = 8 * MB })
local mad = load("mad", { module = "runaways", pool = "mad" })

local counts = {}
local LIST = { 1, { "two", { three = true } }, ngx.null, -4.5 }

local function note(right, err)
    if not right then
        err = (err or "wrong"):gsub("\n.*", ""):gsub("error: %S+:%d+:", "error:")
    end
    harness.count(counts, right, err)
end

local function some_timeout()
    return random() * 0.005 + 0.001
end

local function echo(rt, ...)
    local list, number, text = rt:call(...)
    note(jobs.same(list, LIST) and number == 7 and text == nil, number)
end

local WAYS = {
    function() echo(plain, "echo", LIST, 7) end,
    function() echo(brief, { "echo", key = "k" .. random(9) }, LIST, 7) end,
    function() echo(small, { "echo", priority = "high" }, LIST, 7) end,
    function()
        local text = ("x"):rep(random(100000))
        local res, err = plain:call("echo", text)
        note(res == text, err)
    end,
    function()
        local future, err = brief:submit("echo", LIST, 7)
        local list
        if future then list, err = future:wait() end
        note(jobs.same(list, LIST), err)
    end,
    function()
        local future = plain:submit({ "echo", timeout = some_timeout() }, 1)
        if random(2) == 1 then future:cancel() end
        local res, err = future:wait()
        note(res == 1, err)
    end,
    function()
        local ok, err = brief:cast("echo", LIST)
        harness.count(counts, nil, ok and "cast" or err)
    end,
    function()
        local sum, err = plain:call_fn(function(a, b) return a + b end, 1, 2)
        note(sum == 3, err)
    end,
    -- Results that come in pieces.
    function()
        local shape = jobs.SHAPES[random(#jobs.SHAPES)]
        note(jobs.same({ plain:call("build", shape, 300) },
                       { jobs.build(shape, 300) }))
    end,
    function()
        local list, err = brief:call("build", "list of maps", 2000)
        note(list and #list == 2000 and list[2000].id == 2000, err)
    end,
    function() note(plain:call("fail", "on purpose")) end,
    function() note(plain:call("no_such_function")) end,
    function() note(nbffi.run({ "vm_jobs", timeout = 60 }, "echo", 1)) end,
}

local function runaway()
    local name = ({ "while", "interpreted", "tables", "pcall of a loop" })[random(4)]
    note(mad:call({ "run", timeout = 0.1 }, board.address, name))
end

board = board or require("board").new()
harness.together(50, function(i)
    for round = 1, 20 do
        if i == 1 and round == 1 then
            runaway()
        elseif i == 2 and round <= 3 then
            note(small:call("hoard_strings"))
        else
            WAYS[random(#WAYS)]()
        end
    end
end)
harness.dump(counts)
"#;

#[test]
fn soak() {
    let calls = Size::Calls.or(12_000);
    let requests = calls.div_ceil(PER_REQUEST).max(WARM_UP);
    let nginx = Nginx::builder()
        .setup("threads = 2, max_queue = 1000")
        .init("nbffi.pool('mad', { threads = 1 })")
        .location("/soak", SOAK)
        .location("/collect", "collectgarbage() collectgarbage()")
        .test_modules()
        .start();
    let worker = nginx.worker();
    let rest = || {
        eventually("all has come to rest", || {
            let stats = nginx.figures("/stats");
            let vms = |name: &str| stats[&format!("runtimes.{name}.vm.vms")];
            stats["slots.used"] == 0.0
                && ["plain", "brief", "small"].map(vms) == [2.0; 3]
                && vms("mad") == 1.0
        });
        nginx.text("/collect");
        (
            process::rss(worker),
            process::threads(worker).len(),
            process::descriptors(worker),
        )
    };

    let mut kinds = BTreeMap::new();
    let mut soak = |requests: u64| {
        nginx.repeat("/soak", requests, |text| {
            for (kind, number) in text.lines().filter_map(|line| line.rsplit_once('=')) {
                let number: f64 = number.parse().unwrap();
                *kinds.entry(kind.to_owned()).or_insert(0.0) += number;
            }
        });
    };
    soak(requests / WARM_UP);
    let (mut memory, threads, descriptors) = rest();
    let slots = nginx.figure("slots.allocated");
    // On a busy machine tasks of the others may have to be stopped, too.
    let stopped_vms = || {
        let stats = nginx.figures("/stats");
        let stopped = stats
            .iter()
            .filter(|(key, _)| key.ends_with(".vm.replaced.stopped"));
        stopped.map(|(_, &number)| number).sum::<f64>()
    };
    let mut leavings = stopped_vms();
    let mut made = requests / WARM_UP;
    // Allocators keep a varying amount of memory, and VMs have uncollected garbage, more
    // if threads wait long for a processor. So a resource that has grown too much is
    // measured again after the same calls. A leak grows each time.
    let mut grown = Vec::new();
    loop {
        let now = requests - requests / WARM_UP;
        soak(now);
        made += now;
        let (memory_after, threads_after, _) = rest();
        println!("{memory} KiB, then {memory_after}");
        // A loop that was stopped leaves its machine code behind.
        let stopped = stopped_vms();
        let allowed = 24_000 + (stopped - leavings) as u64 * 128;
        grown.push(memory_after.saturating_sub(memory));
        (memory, leavings) = (memory_after, stopped);
        assert_eq!(threads_after, threads);
        if *grown.last().unwrap() < allowed {
            break;
        }
        assert!(
            grown.len() < 4,
            "{grown:?} KiB more after {now} requests each"
        );
    }
    let stats = nginx.figures("/stats");
    // nginx sees a little later that a client has gone.
    eventually("all files are closed", || {
        process::descriptors(worker) <= descriptors
    });
    let slots_after = stats["slots.allocated"];
    assert!(
        slots_after <= slots * 2.0,
        "{slots} slots, then {slots_after}"
    );

    // Every call has ended in one of these ways, each once, and the statistics
    // agree.
    let all = (made * PER_REQUEST) as f64;
    let ways = [
        "cancelled",
        "cast",
        "ok",
        "runtime error: module \"vm_jobs\" has no function \"no_such_function\"",
        "runtime error: not enough memory",
        "runtime error: on purpose",
        "timeout",
    ];
    assert!(kinds.keys().eq(ways), "{kinds:?}");
    assert_eq!(kinds.values().sum::<f64>(), all, "{kinds:?}");
    let counted = stats.iter().filter(|(key, _)| {
        let name = key.strip_prefix("runtimes.");
        name.is_some_and(|name| name.ends_with(".calls"))
    });
    assert_eq!(counted.map(|(_, calls)| calls).sum::<f64>(), all);

    // Every VM that was lost has been replaced, for the reason that it has.
    let vm = |name: &str, figure: &str| stats[&format!("runtimes.{name}.vm.{figure}")];
    for (name, threads, figure) in [
        ("plain", 2.0, ""),
        ("brief", 2.0, "recycled"),
        ("small", 2.0, "memory"),
        ("mad", 1.0, "stopped"),
    ] {
        let mut replaced = 0.0;
        for cause in ["memory", "recycled", "stopped"] {
            let times = vm(name, &format!("replaced.{cause}"));
            replaced += times;
            // On a busy machine, a task that was given up may be stopped before
            // it comes to its end.
            if name != "plain" || cause != "stopped" {
                assert!((times > 0.0) == (cause == figure), "{name}: {stats:#?}");
            }
        }
        assert_eq!(vm(name, "made"), threads + replaced, "{name}");
        assert_eq!(vm(name, "stuck"), 0.0, "{name}");
    }
    assert_eq!(
        vm("small", "replaced.memory"),
        kinds["runtime error: not enough memory"]
    );
    let served = stats["runtimes.brief.ok"] / 10.0;
    let recycled = vm("brief", "replaced.recycled");
    assert!(recycled <= served && recycled >= served - 2.0, "{recycled}");
}
