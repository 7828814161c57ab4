// A plain copy, with which calls are compared. It is a complete module, without the prologue of the losses.

override WORKGROUP: u32 = 64u;
// Quads that a lane copies; neighbouring ones are WORKGROUP quads apart.
override QUADS: u32 = 1u;

@group(0) @binding(0) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> destination: array<vec4<u32>>;

@compute @workgroup_size(WORKGROUP)
fn copy(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = (group.x + group.y * groups.x) * WORKGROUP * QUADS + lane;
    for (var quad = 0u; quad < QUADS; quad += 1u) {
        let at = first + quad * WORKGROUP;
        if (at < arrayLength(&destination)) {
            destination[at] = source[at];
        }
    }
}
