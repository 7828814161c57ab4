enable wgpu_cooperative_matrix;

alias Element = f32;
alias Left = coop_mat16x16<f32, A>;
alias Right = coop_mat16x16<f32, B>;
alias Sums = coop_mat16x16<f32, C>;
