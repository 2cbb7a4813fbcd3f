// Package crash cuts the power of whole clusters in the middle of their work: the engine of
// a volume as it ships, core and shell, writes to six stores as they ship, each on a file
// system in memory (vfs.Crash) that is cut at a chosen sync and goes on as what a loss of
// power leaves: what was synced, and of the rest nothing, all, or some blocks and names in any
// order. Then what was acknowledged must be there. README.md says what is judged.
//
// It is tests and nothing else.
package crash
