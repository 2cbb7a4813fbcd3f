package coretest

// Trash deletes the disk into the trash, at whatever point it and its clients are: metad fences its owner, and
// nobody uses it. Whoever opens it meanwhile looks after it, and is not told to empty it.
func (w *World) Trash() {
	w.fence()
	w.retired = &retirement{trash: true}
	w.log("the disk is in the trash")
	w.open()
}

// Untrash brings it back as it was, or ends its time: then it is a deleted disk whose snapshots stay.
func (w *World) Untrash(back bool) {
	w.fence()
	if w.retired = nil; !back {
		for _, s := range w.Snaps {
			if s.state == snapAsked {
				w.Drop(s)
			}
		}
		w.retired = &retirement{}
	}
	w.log("the disk is out of the trash, back: %t", back)
	w.open()
}

// fence ends whoever has the disk: its epoch rises.
func (w *World) fence() {
	for _, e := range w.Engines {
		e.Kill()
	}
}
