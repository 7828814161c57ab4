//! Replays a plan that was made elsewhere, on the buffers of the caller.

use std::{collections::HashMap, ops::Range, sync::Arc};

use crate::{
    data::error::{Error, Result},
    device::{
        bind::{Bound, Groups},
        encode::{self, Prepared},
        gpu::Gpu,
        guard::{guarded, usable},
        recall::Planned,
    },
    plan::{Binding, Dispatch, Plan, Role, kernel::Access},
    skeleton::request::Scratch,
    spec::{call::Call, check},
};

/// The operation of a replayed call, as messages name it.
const REPLAYED: &str = "a replayed plan";

/// The buffers of [`Gpu::replay`], by the names of the plan's roles. Tensors lie in them where they lay when the plan
/// was made.
#[derive(Debug, Default)]
#[must_use]
pub struct PlanBuffers<'a> {
    tensors: HashMap<Role, &'a wgpu::Buffer>,
    scratch: Option<Scratch<'a>>,
}

impl<'a> PlanBuffers<'a> {
    /// The buffer of an input, with usage `STORAGE`.
    pub fn input(mut self, name: &str, buffer: &'a wgpu::Buffer) -> Self {
        self.tensors.insert(Role::Input(name.into()), buffer);
        self
    }

    /// The buffer of an output, with usage `STORAGE`.
    pub fn output(mut self, name: &str, buffer: &'a wgpu::Buffer) -> Self {
        self.tensors.insert(Role::Output(name.into()), buffer);
        self
    }

    /// Scratch of the caller, as in [`Request::scratch`](crate::Request::scratch). Without it, the call uses the
    /// scratch of the handle.
    pub fn scratch(mut self, buffer: &'a wgpu::Buffer, bytes: Range<u64>) -> Self {
        self.scratch = Some(Scratch { buffer, bytes });
        self
    }

    fn all(&self) -> Vec<Bound> {
        let bound = |(role, buffer): (&Role, &&wgpu::Buffer)| Bound {
            role: role.clone(),
            buffer: (*buffer).clone(),
            first_byte: 0,
        };
        self.tensors.iter().map(bound).collect()
    }

    /// What a role is bound to: the name for messages, the buffer, and the first byte of the role in it. `None` for
    /// what the call makes itself.
    fn bound(&self, role: &Role) -> Option<(String, &'a wgpu::Buffer, u64)> {
        match role {
            Role::Input(name) | Role::Output(name) => {
                Some((name.to_string(), self.tensors.get(role)?, 0))
            }
            Role::Scratch => {
                let Scratch { buffer, bytes } = self.scratch.as_ref()?;
                Some((check::SCRATCH.to_owned(), buffer, bytes.start))
            }
            Role::Constant(_) => None,
        }
    }
}

impl Gpu {
    /// Compiles and binds a plan, which may have been made by another program and read back from JSON. What comes back
    /// is recorded or submitted like any other call ([`Prepared::encode`], [`Gpu::submit`]). It has no operation behind
    /// it, so it cannot be updated.
    ///
    /// The plan must keep to the limits of this device, and its kernels may use only features that this device has.
    ///
    /// # Errors
    ///
    /// [`Error::BadPlan`] if the parts of the plan contradict each other, [`Error::Limit`] if it does not keep to the
    /// limits, [`Error::MissingBuffer`], [`Error::BufferTooSmall`], [`Error::WrongUsage`] or [`Error::Overlap`] if the
    /// buffers do not fit the plan, and [`Error::Refused`] if the device refuses a kernel or its dispatch.
    pub fn replay(&self, plan: &Plan, buffers: &PlanBuffers<'_>) -> Result<Prepared> {
        plan.check(self.profile())?;
        if let Some(scratch @ Scratch { buffer, bytes }) = &buffers.scratch {
            usable(check::SCRATCH, buffer, wgpu::BufferUsages::STORAGE)?;
            let (found, multiple) = (bytes.start, self.profile().offset_alignment);
            if !found.is_multiple_of(multiple) {
                let argument = check::SCRATCH.into();
                return Err(Error::WrongOffset { argument, found, multiple });
            }
            room(check::SCRATCH, buffer, bytes.end)?;
            encode::fitting(scratch, plan)?;
        }
        for dispatch in &plan.dispatches {
            fitting(plan, dispatch, buffers)?;
            not_shared(dispatch, buffers)?;
        }
        let planned = Planned {
            operation: REPLAYED,
            is_per_row: false,
            extents: Vec::new(),
            call: Arc::new(Call::default()),
            pipelines: self.pipelines(plan)?,
            groups: Arc::new(Groups::new(plan)),
            tensors: Arc::default(),
            places: buffers.tensors.keys().map(|role| (role.clone(), 0)).collect(),
            plan: plan.clone(),
        };
        let scratch = buffers.scratch.as_ref();
        let prepared =
            encode::prepare(self, Arc::new(planned), buffers.all(), (scratch, false), None)?;
        self.recordable(plan, &prepared)?;
        Ok(prepared)
    }

    /// Records a call on an encoder that nobody submits. wgpu compares some of what a module declares, such as the length
    /// of an array, with the bound bytes only when a dispatch is recorded; it must not find a fault in the caller's
    /// encoder.
    fn recordable(&self, plan: &Plan, prepared: &Prepared) -> Result<()> {
        let device = self.device();
        guarded(device, &plan.loss, 0, || {
            let descriptor = wgpu::CommandEncoderDescriptor::default();
            let mut encoder = device.create_command_encoder(&descriptor);
            prepared.encode(&mut encoder);
            drop(encoder.finish());
        })
    }
}

/// Checks that the caller's buffers are there and large enough.
fn fitting(plan: &Plan, dispatch: &Dispatch, buffers: &PlanBuffers<'_>) -> Result<()> {
    for Binding { role, offset, size, .. } in &dispatch.bindings {
        let name = match role {
            Role::Input(name) | Role::Output(name) => name,
            Role::Scratch | Role::Constant(_) => continue,
        };
        let Some((_, buffer, _)) = buffers.bound(role) else {
            let (operation, role) = (plan.loss.clone().into(), role.to_string().into());
            return Err(Error::MissingBuffer { operation, role });
        };
        usable(name, buffer, wgpu::BufferUsages::STORAGE)?;
        room(name, buffer, offset + size)?;
    }
    Ok(())
}

fn room(name: &str, buffer: &wgpu::Buffer, needed: u64) -> Result<()> {
    let found = buffer.size();
    if needed <= found {
        return Ok(());
    }
    Err(Error::BufferTooSmall { argument: name.into(), needed, found })
}

/// Checks that no buffer of the caller is bound twice where wgpu refuses it or where the results would be undefined.
fn not_shared(dispatch: &Dispatch, buffers: &PlanBuffers<'_>) -> Result<()> {
    for (index, binding) in dispatch.bindings.iter().enumerate() {
        let Some((argument, buffer, start)) = buffers.bound(&binding.role) else { continue };
        let bytes = at(binding, start);
        for later in dispatch.bindings.iter().skip(index + 1) {
            let Some((other, _, start)) =
                buffers.bound(&later.role).filter(|(_, other, _)| *other == buffer)
            else {
                continue;
            };
            let other_bytes = at(later, start);
            let overlap = bytes.start < other_bytes.end && other_bytes.start < bytes.end;
            let reason = match (binding.access, later.access) {
                (Access::Read, Access::Read) => continue,
                (Access::ReadWrite, Access::ReadWrite) if !overlap => continue,
                (Access::ReadWrite, Access::ReadWrite) => "overlap",
                _ => "share a buffer, but the plan was made for two buffers",
            };
            return Err(Error::Overlap {
                argument: argument.into(),
                other: other.into(),
                bytes: bytes.into(),
                other_bytes: other_bytes.into(),
                reason: reason.into(),
            });
        }
    }
    Ok(())
}

fn at(binding: &Binding, start: u64) -> Range<u64> {
    let first = start + binding.offset;
    first..first + binding.size
}
