// Package layers is the house rules as tests: who may import whom, which rooms stay
// pure, and the habits a machine can check. It has no code of its own. A rule is a row
// in a table with its reason; the reason is what a failing test prints.
//
// Old sins stand in exceptions.txt, which may only shrink.
package layers
