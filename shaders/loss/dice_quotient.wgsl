// One minus the Dice coefficient, from two sums of a row: sums.x = raise·Σ P·t and sums.y = raise·Σ (P + t).
//
// Hazard: without `raise`, a loss of 1 may come out as 0. Cause: where the mask is empty and every P is below 2^-126, a
// device that treats such numbers as 0 gets sums of 0. Remedy: both sums of the quotient are multiplied by a power of
// two (params.raise = 2^params.raised, see src/losses/dice.rs), which changes no bit of the quotient.

fn dice_whole(sums: vec4<f32>) -> f32 {
    return sums.y + params.raised_smooth;
}

// 1/whole; 0 where both masks are empty and nothing is smoothed.
fn dice_inverse(sums: vec4<f32>) -> f32 {
    let whole = dice_whole(sums);
    return select(1.0 / whole, 0.0, whole == 0.0);
}

// The coefficient, from which the slopes follow.
fn dice_alike(sums: vec4<f32>) -> f32 {
    return (2.0 * sums.x + params.raised_smooth) * dice_inverse(sums);
}

// (ΣP + Σt − 2ΣPt)/(ΣP + Σt + s); two empty masks are equal masks, with loss 0.
fn dice_loss(sums: vec4<f32>) -> f32 {
    let whole = dice_whole(sums);
    let apart = sums.y - 2.0 * sums.x;
    return select(apart / whole, 0.0, whole == 0.0);
}
