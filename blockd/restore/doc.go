// Package restore reads what of a volume lies in an archive as if it were the volume's own: by
// the ids that were allotted to it, with the pages of its map translated to these. It fetches
// small ranges, and those after them that are likely to be wanted next, keeps some of them, and
// gives nothing that was not checked. It decides nothing: what is read, brought in or
// forgotten is for blockd/volume to say.
//
// An Archive, of the process, and a Disk, of one volume, are safe for concurrent use.
package restore
