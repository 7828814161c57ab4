//! The kernels that this process has planned.
//!
//! A plan is made at every step of a training loop, nearly always from kernels that are known. So a kernel is looked up
//! by what it is made from, and its module is assembled only the first time.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use super::{Kernel, Label, code::Code, overrides};

/// What a kernel is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Draft {
    pub label: Label,
    pub code: Code,
    /// The values of all overrides that the call knows, also of those that this kernel does not read.
    pub overrides: Vec<(&'static str, u32)>,
}

/// An assembled module, which kernels with other labels or other values of overrides share.
#[derive(Clone)]
struct Module {
    wgsl: Arc<str>,
    /// The overrides that no code of the entry point reads.
    unread: Arc<HashSet<String>>,
}

#[derive(Default)]
struct Known {
    kernels: HashMap<Draft, Arc<Kernel>, BuildHasherDefault<Quick>>,
    modules: HashMap<Code, Module>,
}

static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

/// A hasher for keys that nobody chooses to collide: a multiplication for each number or eight bytes.
#[derive(Default)]
struct Quick(u64);

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Draft {
    /// The kernel of this draft.
    pub fn kernel(&self) -> Arc<Kernel> {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = known.kernels.get(self) {
            return kernel.clone();
        }
        let module = known.modules.get(&self.code).cloned().unwrap_or_else(|| {
            let module = Module::of(&self.code);
            known.modules.insert(self.code.clone(), module.clone());
            module
        });
        let kernel = Arc::new(self.made_of(&module));
        known.kernels.insert(self.clone(), kernel.clone());
        kernel
    }

    fn made_of(&self, module: &Module) -> Kernel {
        let Code { entry, fields, .. } = &self.code;
        // Overrides that the code does not read would make two kernels of equal code.
        let read = self.overrides.iter().filter(|(name, _)| !module.unread.contains(*name));
        Kernel {
            label: self.label.to_string(),
            entry: (*entry).into(),
            wgsl: module.wgsl.clone(),
            storage: self.code.storage(),
            fields: fields
                .iter()
                .map(|(name, scalar)| (name.to_string().into(), *scalar))
                .collect(),
            overrides: read.map(|&(name, value)| (name.into(), value)).collect(),
        }
    }
}

impl Module {
    fn of(code: &Code) -> Self {
        let wgsl = code.wgsl();
        let unread = overrides::unread(&wgsl, code.entry);
        Self { wgsl: wgsl.into(), unread: Arc::new(unread) }
    }
}
