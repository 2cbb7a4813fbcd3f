// Package archive is what a snapshotd does with the archive: it uploads snapshots, lists, verifies and
// reclaims. It knows the object store and, through small interfaces, who has the disks and what
// must not go; it decides nothing about when. FORMAT.md of pkg/archive has the order of writes.
//
// What runs twice does no harm: objects are cut by what a snapshot holds, so everybody cuts alike,
// and are never overwritten; the manifest is put by one conditional put. All of it is safe for concurrent use.
package archive
