//go:build race

package chunk

// raceDetector: Pebble checks itself at every turn under the race detector, so
// tests that open many stores do less.
const raceDetector = true
