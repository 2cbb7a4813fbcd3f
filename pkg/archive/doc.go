// Package archive has the form of a snapshot in an object store: a manifest that says all
// about it, and objects with the slots it holds, segment by segment. FORMAT.md has the
// bytes; folder restore has a program that reads them and knows nothing else of this tree.
//
// It encodes and decodes, and it reads through an objectstore.Store: whatever it gives was
// checked against sums that were made where the blocks were last known right. It
// decides nothing about what is archived when, and deletes nothing.
//
// A Reader is safe for concurrent use; an Object being built is not.
package archive
