"""Which of a model's answers are taken as labels, and what stage 3 leaves."""
