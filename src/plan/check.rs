//! Checks of a plan that was read back: that its parts fit each other and a device.

use super::{Binding, Dispatch, Plan, Role};
use crate::{
    data::error::{Error, Result},
    plan::profile::Profile,
};

impl Plan {
    /// Checks that the parts of a plan fit each other, and that it keeps to the limits of a device. Plans that were made
    /// here for this device always do; a plan that was read back may not.
    pub fn check(&self, profile: &Profile) -> Result<()> {
        for (index, dispatch) in self.dispatches.iter().enumerate() {
            self.check_parts(dispatch).map_err(|reason| Error::BadPlan {
                operation: self.loss.clone().into(),
                dispatch: index,
                reason: reason.into(),
            })?;
            check_limits(dispatch, profile)?;
        }
        Ok(())
    }

    fn check_parts(&self, dispatch: &Dispatch) -> Result<(), &'static str> {
        let kernel = self.kernels.get(dispatch.kernel).ok_or("there is no such kernel")?;
        if kernel.storage.len() != dispatch.bindings.len() {
            return Err("the kernel has another number of bindings");
        }
        if kernel.fields.len() != dispatch.params.len() {
            return Err("the kernel has another number of parameters");
        }
        for (storage, binding) in kernel.storage.iter().zip(&dispatch.bindings) {
            let Binding { role, offset, size, access } = binding;
            if *access != storage.access {
                return Err("the kernel uses a binding in another way");
            }
            let end = offset.checked_add(*size).filter(|_| *size > 0);
            let end = end.ok_or("a binding is empty or too large")?;
            let held = match role {
                Role::Input(_) | Role::Output(_) => u64::MAX >> 1,
                Role::Scratch => self.scratch_bytes,
                Role::Constant(index) => {
                    let bytes = self.constants.get(*index).ok_or("there is no such constant")?;
                    (bytes.len() as u64).max(1).next_multiple_of(256)
                }
            };
            if end > held {
                return Err("a binding ends past its buffer");
            }
        }
        Ok(())
    }
}

fn check_limits(dispatch: &Dispatch, profile: &Profile) -> Result<()> {
    let within = |what: &str, found: u64, limit: u64| {
        if found <= limit {
            return Ok(());
        }
        Err(Error::Limit { what: what.into(), found, limit })
    };
    let bindings = dispatch.bindings.len() as u64;
    within("storage bindings of a dispatch", bindings, profile.storage_buffers.into())?;
    for workgroups in dispatch.workgroups {
        within("workgroups of a dispatch", workgroups.into(), profile.workgroups.into())?;
    }
    for Binding { role, offset, size, .. } in &dispatch.bindings {
        within("bytes of a binding", *size, profile.binding_bytes)?;
        if !offset.is_multiple_of(profile.offset_alignment) {
            let (argument, multiple) = (role.to_string().into(), profile.offset_alignment);
            return Err(Error::WrongOffset { argument, found: *offset, multiple });
        }
    }
    Ok(())
}
