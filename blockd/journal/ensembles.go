package journal

import "ashlar.dev/pkg/id"

// Ensembles is how many ensembles the list has. More than one: records of an
// older one are not all released yet, or no checkpoint in metad covers its meta
// stream.
func (c *Core) Ensembles() int { return len(c.ensembles) }

// Newest are the stores that new records go to.
func (c *Core) Newest() (out []id.Store) {
	if e := c.newest(); e != nil {
		for _, m := range e.members {
			out = append(out, m.Store)
		}
	}
	return out
}
