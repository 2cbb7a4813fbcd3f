package journal

// Ensembles is how many ensembles the list has. More than one: records of an
// older one are not all released yet, or no checkpoint in metad covers its meta
// stream.
func (c *Core) Ensembles() int { return len(c.ensembles) }
