//! The Lua module of a runtime, as VM code asks for it: its name, the names of its
//! functions, and whether to load it again.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most functions of a runtime. Names come from code; a program that makes them
/// from requests has a defect.
const MAX_FUNCTIONS: usize = 65_535;

/// The Lua module of a runtime.
#[derive(Debug)]
pub struct Module {
    /// Identifies the runtime in a VM.
    pub number: u32,
    /// The module's name; empty if the runtime only runs functions that are sent as
    /// code.
    pub name: Box<str>,
    functions: Mutex<Vec<Arc<str>>>,
    generation: AtomicU32,
    forget: Mutex<String>,
}

impl Module {
    pub(crate) fn new(name: String) -> Self {
        static NUMBERS: AtomicU32 = AtomicU32::new(0);
        Self {
            // Relaxed: only the number must be unique.
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            name: name.into(),
            functions: Mutex::default(),
            generation: AtomicU32::new(0),
            forget: Mutex::default(),
        }
    }

    fn functions(&self) -> MutexGuard<'_, Vec<Arc<str>>> {
        self.functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a function, from 1. `None` if there are too many functions.
    pub fn function_number(&self, name: &str) -> Option<u32> {
        let mut functions = self.functions();
        let known = functions.iter().position(|known| **known == *name);
        if known.is_none() && functions.len() < MAX_FUNCTIONS {
            functions.push(name.into());
            return Some(functions.len() as u32);
        }
        known.map(|position| position as u32 + 1)
    }

    /// The name of a function.
    pub fn function_name(&self, number: u32) -> Option<Arc<str>> {
        let index = (number as usize).checked_sub(1)?;
        self.functions().get(index).cloned()
    }

    /// How often the module was reloaded.
    pub(crate) fn generation(&self) -> u32 {
        // Acquire: pairs with the Release in `reload`.
        self.generation.load(Ordering::Acquire)
    }

    /// Makes every VM load the module again before its next task, and `others`:
    /// names, one per line.
    pub fn reload(&self, others: &str) {
        let mut forget = self.lock_forget();
        for name in others.lines() {
            // Names are kept, since a VM may skip generations.
            if !forget.lines().any(|known| known == name) {
                forget.push_str(name);
                forget.push('\n');
            }
        }
        // Release: pairs with the Acquire in `generation`.
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The modules to load again with this one.
    pub fn forget(&self) -> String {
        self.lock_forget().clone()
    }

    fn lock_forget(&self) -> MutexGuard<'_, String> {
        self.forget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
