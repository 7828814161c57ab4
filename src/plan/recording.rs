//! The recording of a call, and what can be asked of it.

use std::{ops::Range, sync::Arc};

use crate::plan::{Dispatch, Path, Role, kernel::Kernel, profile::Profile};

/// A recording: kernels, dispatches in order, and the scratch they share.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Plan {
    /// The name of the loss.
    pub loss: String,
    /// The kernels, each once.
    pub kernels: Vec<Arc<Kernel>>,
    /// The dispatches, in order.
    pub dispatches: Vec<Dispatch>,
    /// Host inputs, as the bytes that kernels read. Each is bound from a buffer of its own, with zeros behind the bytes
    /// up to the next multiple of 256.
    pub constants: Vec<Vec<u8>>,
    /// The bytes of scratch.
    pub scratch_bytes: u64,
    /// The number of windows: stretches of rows or elements that are dispatched one after another.
    pub windows: u64,
    /// The bytes of the logits, where the plan does not store them.
    pub unstored_bytes: u64,
    /// How logits that are not stored are made.
    pub path: Option<Path>,
}

impl Plan {
    /// The bytes of all parameter blocks, each of which begins at a multiple of 256.
    pub fn params_bytes(&self) -> u64 {
        self.dispatches.len() as u64 * Self::PARAMS_STRIDE
    }

    /// What another plan of the same call differs in beside its parameters.
    pub(crate) fn other_code(&self, other: &Self) -> Option<String> {
        for (own, kernel) in self.kernels.iter().zip(&other.kernels) {
            let overrides = own.overrides.iter().zip(&kernel.overrides);
            let mut changed = overrides.filter(|(own, other)| own != other);
            if let Some(((name, value), (_, before))) = changed.next() {
                let label = &own.label;
                return Some(format!(
                    "an option changes the code (`{name}` of the kernel `{label}` from {before} to {value})"
                ));
            }
        }
        let sizes = |plan: &Self| (plan.scratch_bytes, plan.dispatches.len());
        let same = |(own, other): (&Dispatch, &Dispatch)| {
            let code = |dispatch: &Dispatch| (dispatch.kernel, dispatch.workgroups);
            code(own) == code(other) && own.bindings == other.bindings
        };
        let equal = self.kernels == other.kernels
            && sizes(self) == sizes(other)
            && self.constants == other.constants
            && self.dispatches.iter().zip(&other.dispatches).all(same);
        (!equal).then(|| "an option changes the kernels".to_owned())
    }

    /// The bytes of its buffer that the plan binds for a role, from the first byte on.
    pub fn bytes_of(&self, role: &Role) -> u64 {
        let bindings = self.dispatches.iter().flat_map(|dispatch| &dispatch.bindings);
        let ends = bindings.filter(|binding| binding.role == *role);
        ends.map(|binding| binding.offset.saturating_add(binding.size)).max().unwrap_or(0)
    }

    /// The parameter blocks one after another, as the uniform bindings of the dispatches expect them.
    pub fn parameter_bytes(&self) -> Vec<u8> {
        let stride = Self::PARAMS_STRIDE as usize;
        let mut bytes = vec![0u8; self.dispatches.len().max(1) * stride];
        for (block, dispatch) in bytes.chunks_exact_mut(stride).zip(&self.dispatches) {
            for (place, word) in block.as_chunks_mut().0.iter_mut().zip(&dispatch.params) {
                *place = word.to_le_bytes();
            }
        }
        bytes
    }

    /// Ranges of dispatches, in order. Each range is short enough for a submission of its own. One range has all
    /// dispatches, unless [`Profile::submission_dispatches`] asks for more (on OpenGL).
    ///
    /// A dispatch is planned to take at most a tenth of a second, so a range of ten takes at most one second. A caller
    /// who records [`crate::Prepared::encode`] on an encoder of their own cuts a call at these ranges with
    /// [`crate::Prepared::encode_part`], with an encoder and a submission for each range. Where a call is cut in
    /// several ranges, the prepared call has scratch of its own.
    pub fn submissions(&self, profile: &Profile) -> impl Iterator<Item = Range<usize>> + use<> {
        let all = self.dispatches.len();
        let most = (profile.submission_dispatches as usize).max(1);
        (0..all).step_by(most).map(move |first| first..all.min(first.saturating_add(most)))
    }

    /// The distance from one parameter block to the next, in bytes.
    pub const PARAMS_STRIDE: u64 = 256;
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{}: {} dispatches of {} kernels in {} window(s), {} bytes of scratch",
            self.loss,
            self.dispatches.len(),
            self.kernels.len(),
            self.windows,
            self.scratch_bytes
        )?;
        if let Some(path) = &self.path {
            writeln!(f, "  {path}")?;
        }
        for dispatch in &self.dispatches {
            let kernel = self.kernels.get(dispatch.kernel);
            let [x, y, z] = dispatch.workgroups;
            writeln!(f, "  {} × ({x}, {y}, {z})", kernel.map_or("?", |k| k.label.as_str()))?;
            for (stream, binding) in
                kernel.into_iter().flat_map(|kernel| &kernel.storage).zip(&dispatch.bindings)
            {
                writeln!(
                    f,
                    "    {:<16} {:?} bytes {}..{}",
                    stream.name,
                    binding.role,
                    binding.offset,
                    // The sum of a plan that was read back may be too large.
                    binding.offset.saturating_add(binding.size)
                )?;
            }
        }
        Ok(())
    }
}
