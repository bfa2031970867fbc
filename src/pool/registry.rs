//! The pools of the process, by name.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use super::{Config, Pool};

static POOLS: LazyLock<Mutex<HashMap<String, &'static Pool>>> = LazyLock::new(Mutex::default);

/// The pool of a name, if there is one.
pub fn find(name: &str) -> Option<&'static Pool> {
    let pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    pools.get(name).copied()
}

/// The pool of a configuration, made if there is none of its name. The error
/// says how an existing one differs.
pub fn obtain(config: Config) -> Result<&'static Pool, String> {
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(pool) = pools.get(&config.name) else {
        let name = config.name.clone();
        let pool = Pool::new(config);
        pools.insert(name, pool);
        return Ok(pool);
    };
    let existing = pool.config();
    if *existing == config {
        return Ok(pool);
    }
    let Config {
        name,
        threads,
        max_queue,
        nice,
    } = existing;
    Err(format!(
        "pool \"{name}\" exists already, with threads = {threads}, max_queue = {max_queue}, \
         nice = {nice}"
    ))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_pool() {
        let config = |threads| Config {
            name: "registry test".into(),
            threads,
            max_queue: 5,
            nice: 0,
        };
        assert!(find("registry test").is_none());
        let pool = obtain(config(2)).unwrap();
        assert!(std::ptr::eq(pool, obtain(config(2)).unwrap()));
        assert!(std::ptr::eq(pool, find("registry test").unwrap()));
        let error = obtain(config(3)).unwrap_err();
        assert!(error.contains("threads = 2, max_queue = 5"), "{error}");
    }
}
