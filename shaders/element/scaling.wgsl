// What `header` found.
fn scaling_found() -> Scaling {
    let upstream_and_inverse = tallies[params.kept + 1u];
    return Scaling(
        bitcast<u32>(upstream_and_inverse.sum),
        bitcast<u32>(tallies[params.kept].sum),
        bitcast<u32>(upstream_and_inverse.denominator),
    );
}
