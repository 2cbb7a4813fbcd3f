// Package mutants asks whether the simulations would notice: each mutant breaks one rule of
// the product's source, as a person might by mistake, and the simulated worlds of the room,
// which pass as the source stands, must fail with it. The source itself has no switches;
// a mutant is laid over it for one run of the compiler.
//
// That every mutant still fits the source is a unit test. The runs take minutes:
// make mutants.
package mutants
