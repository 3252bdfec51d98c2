package cluster

import (
	"encoding/json"
	"fmt"
	"time"

	"bulla.test/clients/check"
	"bulla.test/clients/plugin"
)

// Amount is how much lies there at a cold start, and how often it is started over.
type Amount struct {
	Secrets, Seeds, Starts int
	// Patience is how long a start may take.
	Patience time.Duration
}

// Cold is what was measured. Each list has a number for each start.
type Cold struct {
	Plugin  string `json:"plugin"`
	Secrets int    `json:"secrets"`
	Seeds   int    `json:"seeds"`
	// WrittenS is how long it took to write the Secrets, sixteen at a time.
	WrittenS  float64 `json:"written_s"`
	StoredMiB float64 `json:"stored_mib"`
	// EmptyReadyS is of the first start, over no Secret.
	EmptyReadyS float64 `json:"empty_ready_s"`
	// ReadyS is from the apiserver's start to a good /readyz. The plugin answered before that.
	ReadyS []float64 `json:"ready_s"`
	// Asked and Answered are calls of Decrypt as the apiserver and as the plugin count them; Answered is missing where
	// the plugin cannot be asked.
	Asked    []int `json:"decrypts_asked"`
	Answered []int `json:"decrypts_answered,omitempty"`
	// ListedS is a first list of all Secrets.
	ListedS []float64 `json:"listed_s"`
}

// ColdStart is one case: it prints what a start over so many Secrets takes, in JSON.
func ColdStart(description *plugin.Description, bin string, amount Amount) []check.Case {
	s := &suite{description, bin}
	// Of two cores a Secret takes one to three milliseconds.
	limit := 5*time.Minute + time.Duration(amount.Secrets)*20*time.Millisecond + time.Duration(amount.Starts)*2*amount.Patience
	return []check.Case{{Name: "coldstart", Limit: limit, Run: func(t *check.T) {
		text, err := json.Marshal(coldStarts(s, t, amount))
		t.Must(err, "encode the figures")
		t.Figure("%s", text)
	}}}
}

// Everything starts anew over 2,000 Secrets of several seeds: the plugin is asked once for each seed, and no more.
func coldStart(s *suite, t *check.T) {
	cold := coldStarts(s, t, Amount{Secrets: 2000, Seeds: 3, Starts: 1, Patience: patience})
	t.Figure("2,000 Secrets of %d seeds: %d Decrypt, ready after %.1f s", cold.Seeds, cold.Asked[0], cold.ReadyS[0])
}

// coldStarts writes Secrets of several seeds, and then starts plugin and apiserver over them again and again.
func coldStarts(s *suite, t *check.T, amount Amount) Cold {
	world := newWorld(s, t)
	instance := world.Started()
	server := world.Server(instance)
	cold := Cold{Plugin: s.Name, Secrets: amount.Secrets, EmptyReadyS: server.StartWithin(amount.Patience).Seconds()}
	var some []string
	for batch := range amount.Seeds {
		if batch > 0 {
			server.Kill()
			server.StartWithin(amount.Patience)
		}
		all := names(fmt.Sprintf("batch-%d", batch), share(amount.Secrets, amount.Seeds, batch))
		begin := time.Now()
		server.MustCreate(all...)
		cold.WrittenS += time.Since(begin).Seconds()
		some = append(some, all[0], all[len(all)-1])
	}
	cold.Seeds = world.Seeds()
	if cold.Seeds != amount.Seeds {
		t.Failf("%d starts gave %d seeds", amount.Seeds, cold.Seeds)
	}
	for _, value := range world.Keys("/registry/secrets/") {
		cold.StoredMiB += float64(len(value)) / (1 << 20)
	}
	for range amount.Starts {
		cold.again(t, server, instance, amount.Patience)
	}
	for _, name := range some {
		server.MustGet(name)
	}
	if again := server.Calls("Decrypt"); again != cold.Seeds {
		t.Failf("reading took %d Decrypt more", again-cold.Seeds)
	}
	return cold
}

// again starts the plugin and then the apiserver, both after they were killed.
func (c *Cold) again(t *check.T, server *Server, instance *plugin.Instance, patience time.Duration) {
	server.Kill()
	instance.Kill()
	instance.Start()
	c.ReadyS = append(c.ReadyS, server.StartWithin(patience).Seconds())
	asked := server.Calls("Decrypt")
	if asked != c.Seeds {
		t.Failf("%d seeds took %d Decrypt", c.Seeds, asked)
	}
	c.Asked = append(c.Asked, asked)
	if answered, known := instance.Decrypts(); known {
		if answered != asked {
			t.Failf("the apiserver counts %d Decrypt, and the plugin %d", asked, answered)
		}
		c.Answered = append(c.Answered, answered)
	}
	begin := time.Now()
	if listed := server.MustList(); listed != c.Secrets {
		t.Failf("%d Secrets are listed of %d", listed, c.Secrets)
	}
	c.ListedS = append(c.ListedS, time.Since(begin).Seconds())
}

// share is how many of all things are in this one of several batches: as even as can be, and the first have one more.
func share(all, batches, batch int) int {
	size := all / batches
	if batch < all%batches {
		size++
	}
	return size
}
