"""What Flux costs, beside what the same disk and the same Python cost without it, in the same round."""
