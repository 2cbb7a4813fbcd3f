// Package objectstore keeps whole objects under keys: what the archive is made of. Bodies
// are a plain directory and S3; wrappers retry and limit what they do per second.
//
// An object is written in one piece and read in any. Nothing here knows what is in one,
// and nothing checks it but that what was sent arrived: who reads verifies. There is no
// renaming, no appending and no version; whoever wants an object never to change
// writes it with PutNew under a key of its own.
//
// Everything here is safe for concurrent use, also by several processes on one store.
package objectstore
