//! Several runtimes in one Python: what code finds by name is its own.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod host;

use std::path::PathBuf;

use host::Runtime;

/// A folder that belongs to one test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("python-{name}"));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn load(&self, entry: &str) -> Runtime {
        let path = self.0.to_str().unwrap();
        host::load(&[("entry", entry), ("path", path)]).unwrap()
    }
}

/// Everything in it looks up modules by their names.
const SHOP: &str = r#"
import asyncio, copyreg, dataclasses, enum, importlib, inspect, multiprocessing
import pickle, sys, threading, typing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

class Item:
    owner: "Item"

class Color(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Order:
    item: "Item"
    total: "typing.ClassVar[int]" = 7

def same(what):
    return pickle.loads(pickle.dumps(what)) is what

def in_child(what):
    return what is Item or what is Color.RED

def pickles():
    assert same(Item) and same(Color.RED) and same(same)
    assert type(pickle.loads(pickle.dumps(Item()))) is Item
    assert pickle._loads(pickle._dumps(Color.RED)) is Color.RED
    assert pickle.whichmodule(Item, "Item") == "shop"

def hints():
    assert typing.get_type_hints(Item)["owner"] is Item
    assert typing.get_type_hints(Order)["item"] is Item
    assert [f.name for f in dataclasses.fields(Order)] == ["item"]

def names():
    me = sys.modules[__name__]
    assert vars(me) is globals() and sys.modules.get("shop") is me
    assert importlib.import_module("shop") is me and "shop" in sys.modules
    import shop
    assert shop is me and dict(sys.modules.items())["shop"] is me
    assert inspect.getmodule(Item) is me and me in sys.modules.values()
    assert "shop" in list(sys.modules) and sys.modules.copy()["shop"] is me
    assert inspect.getsource(in_child).startswith("def in_child")
    import parts.one
    assert parts.one is importlib.import_module(".one", "parts") is sys.modules["parts.one"]

def raised(work):
    try:
        return work()
    except Exception as error:
        return error

def threads():
    found = []
    thread = threading.Thread(target=lambda: found.append(raised(everything)))
    thread.start()
    thread.join()
    assert found == ["ok"], found
    # No function of ours is on these threads' stacks.
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(pickle.loads, pickle.dumps(Color.RED)).result() is Color.RED
        assert pool.submit(importlib.import_module, "shop").result() is sys.modules["shop"]

def children():
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map(in_child, [Item, Color.RED]) == [True, True]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(in_child, Color.RED).result()

def everything():
    pickles()
    hints()
    names()
    return "ok"

everything()

def run(request):
    globals()[request.decode()]()
    return "ok"

async def arun(request):
    everything()
    def later():
        done.set_result(raised(everything))
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.call_soon(later)
    assert await done == "ok", done.result()
    assert await asyncio.to_thread(everything) == "ok"
    data = pickle.dumps(Color.RED)
    assert await loop.run_in_executor(None, pickle.loads, data) is Color.RED
    assert await asyncio.gather(asyncio.sleep(0, 1)) == [1]
    return "ok"
"#;

#[test]
fn two_runtimes_of_one_module_find_what_is_their_own() {
    let folder = Folder::new("twice");
    folder.write("shop.py", SHOP);
    folder.write("parts/__init__.py", "");
    folder.write("parts/one.py", "");
    let first = folder.load("shop:run");
    let second = folder.load("shop:run");
    let looped = folder.load("shop:arun");
    for rt in [&first, &second, &first] {
        for what in ["everything", "threads", "children"] {
            assert_eq!(rt.call(what).text(), "ok", "{what}");
        }
    }
    assert_eq!(looped.call("").text(), "ok");
    drop(second);
    assert_eq!(first.call("everything").text(), "ok");
    let third = folder.load("shop:run");
    drop(first);
    assert_eq!(third.call("threads").text(), "ok");
    assert_eq!(looped.call("").text(), "ok");
}

#[test]
fn a_module_of_one_runtime_is_not_that_of_another() {
    let one = Folder::new("own-uuid");
    one.write("uuid.py", "mine = 'own'\n");
    one.write("helper.py", "name = 'one'\n");
    one.write(
        "first.py",
        "import sys\n\
         def call(request):\n\
         \x20   exec(request)\n\
         \x20   import helper, uuid\n\
         \x20   return f'{helper.name} {uuid.mine}'\n",
    );
    let two = Folder::new("no-uuid");
    two.write("helper.py", "name = 'two'\n");
    two.write(
        "second.py",
        "import sys\n\
         def call(request):\n\
         \x20   try:\n\
         \x20       import first\n\
         \x20       return 'first is found'\n\
         \x20   except ModuleNotFoundError:\n\
         \x20       import helper, uuid\n\
         \x20       return f'{helper.name} {uuid.uuid5(uuid.NAMESPACE_DNS, request.decode())}'\n",
    );
    let own = "one own";
    let shared = "two cfbff0d1-9375-5685-968c-48ce8b15ae17";
    // Whoever comes first, and whatever is there already.
    let first = one.load("first:call");
    assert_eq!(first.call("").text(), own);
    let second = two.load("second:call");
    assert_eq!(second.call("example.com").text(), shared);
    assert_eq!(first.call("").text(), own);
    let other = one.load("first:call");
    assert_eq!(other.call("").text(), own);
    // What the standard library imports is its own, on whose behalf it may be.
    let library = "import plistlib, xml.dom.minidom\n\
                   from email.utils import make_msgid\n\
                   assert plistlib.loads(plistlib.dumps(7)) == 7\n\
                   sys.modules.pop('uuid'), sys.modules.pop('tempfile', None)\n\
                   import tempfile\n\
                   assert tempfile.gettempdir()";
    assert_eq!(first.call(library).text(), own);
    // What a function adds to sys.path is its runtime's.
    let hidden = Folder::new("hidden");
    hidden.write("only_here.py", "name = 7\n");
    let place = hidden.0.to_str().unwrap();
    for more in [
        format!("sys.path.insert(0, {place:?})"),
        format!("sys.path = [{place:?}] + sys.path"),
    ] {
        let code = format!("{more}\nimport only_here\nassert only_here.name == 7");
        let adds = one.load("first:call");
        assert_eq!(adds.call(code).text(), own);
        let outcome = first.call("import only_here");
        assert!(outcome.failure().1.starts_with("ModuleNotFoundError"));
        let other = first.call(format!("assert {place:?} not in sys.path"));
        assert_eq!(other.text(), own);
    }
}

#[test]
fn what_is_not_a_runtimes_own_is_shared() {
    let folder = Folder::new("shared");
    folder.write(
        "counts.py",
        "import fractions\n\
         def call(request):\n\
         \x20   import decimal\n\
         \x20   decimal.calls = getattr(decimal, 'calls', 0) + 1\n\
         \x20   fractions.calls = getattr(fractions, 'calls', 0) + 1\n\
         \x20   return f'{fractions.calls} {decimal.calls}'\n",
    );
    let first = folder.load("counts:call");
    let second = folder.load("counts:call");
    assert_eq!(first.call("").text(), "1 1");
    assert_eq!(second.call("").text(), "2 2");
    drop(first);
    assert_eq!(second.call("").text(), "3 3");
}
