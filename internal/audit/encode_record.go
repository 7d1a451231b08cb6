package audit

// appendRecord appends r as one JSON object, with the commitments of s in place
// of its values.
func appendRecord(dst []byte, r *Record, s *seal) []byte {
	e := encoder{buf: append(dst, '{')}
	e.number("v", int64(r.V))
	e.text("log", r.Log)
	e.number("index", r.Index)
	e.text("id", r.ID)
	e.time("time", r.Time)
	e.text("kind", string(r.Kind))
	e.optional("session", r.Session)
	if r.Seq != 0 {
		e.number("seq", r.Seq)
	}
	e.text("node", r.Node)
	e.text("agent", r.Agent)
	if r.StaleUS != 0 {
		e.number("stale_us", r.StaleUS)
	}
	e.optional("request_id", r.RequestID)
	e.optional("request_log", r.RequestLog)
	e.workload(r.Workload)
	e.initiator(r.Initiator)
	e.claimed(r.Claimed)
	e.target(r.Target)
	e.request(r.Request, s)
	e.decision(r.Decision)
	e.outcome(r.Outcome)
	e.refusal(r.Refusal)
	e.event(r.Event)
	e.credential(r.Credential)
	e.policy(r.Policy)
	e.ledger(r.Ledger)
	e.loss(r.Loss)
	e.certified(r.Key)
	e.previous(r.Previous)
	e.close()
	return e.buf
}

func (e *encoder) workload(w *Workload) {
	if w == nil {
		return
	}
	e.open("workload")
	e.optional("namespace", w.Namespace)
	e.optional("pod", w.Pod)
	e.optional("uid", w.UID)
	e.optional("service_account", w.ServiceAccount)
	e.optional("container", w.Container)
	e.optional("image", w.Image)
	e.optional("user", w.User)
	e.optionalList("groups", w.Groups)
	if w.PID != 0 {
		e.unsigned("pid", uint64(w.PID))
	}
	e.optional("process", w.Process)
	e.optional("exe", w.Exe)
	e.unsigned("linux_uid", uint64(w.LinuxUID))
	e.optional("linux_user", w.LinuxUser)
	if w.Cgroup != 0 {
		e.unsigned("cgroup", w.Cgroup)
	}
	e.optional("verified", w.Verified)
	if t := w.Token; t != nil {
		e.open("token")
		e.text("iss", t.Issuer)
		e.text("sub", t.Subject)
		e.optional("jti", t.ID)
		e.close()
	}
	e.close()
}

func (e *encoder) initiator(i *Initiator) {
	if i == nil {
		return
	}
	e.open("initiator")
	e.text("user", i.User)
	e.optionalList("groups", i.Groups)
	e.text("source", i.Source)
	e.boolean("verified", i.Verified)
	e.close()
}

func (e *encoder) claimed(c *Claimed) {
	if c == nil {
		return
	}
	e.open("claimed")
	e.optional("application_name", c.ApplicationName)
	e.optional("traceparent", c.Traceparent)
	e.optional("user_agent", c.UserAgent)
	e.optional("user", c.User)
	e.close()
}

func (e *encoder) target(t *Target) {
	if t == nil {
		return
	}
	e.open("target")
	e.optional("name", t.Name)
	e.optional("protocol", t.Protocol)
	e.optional("address", t.Address)
	e.optional("host", t.Host)
	e.optional("tls", t.TLS)
	e.optional("database", t.Database)
	e.optional("user", t.User)
	e.optional("credential_version", t.CredentialVersion)
	e.close()
}

func (e *encoder) request(r *Request, s *seal) {
	if r == nil {
		return
	}
	e.open("request")
	e.cut = false
	e.list("operations", r.Operations)
	e.list("relations", r.Relations)
	e.list("functions", r.Functions)
	e.optional("text", s.text)
	e.optional("fingerprint", r.Fingerprint)
	if len(s.parameters) > 0 {
		e.key("parameters")
		e.buf = append(e.buf, '[')
		for _, p := range s.parameters {
			e.separate()
			e.quote(p)
		}
		e.buf = append(e.buf, ']')
	}
	e.boolean("truncated", r.Truncated || s.truncated || e.cut)
	e.close()
}

func (e *encoder) decision(d *Decision) {
	if d == nil {
		return
	}
	e.open("decision")
	e.text("action", d.Action)
	e.optional("policy", d.Policy)
	e.optional("rule", d.Rule)
	e.optional("reason", d.Reason)
	e.text("hash", d.Hash)
	e.optionalList("masks", d.Masks)
	if len(d.Would) > 0 {
		e.key("would")
		e.buf = append(e.buf, '[')
		for _, v := range d.Would[:min(len(d.Would), maxVerdicts)] {
			e.verdict(v)
		}
		e.buf = append(e.buf, ']')
	}
	e.close()
}

// maxVerdicts bounds what observed policies add to a leaf. An administrator
// writes them, so that more than these is no attack, and the first decide.
const maxVerdicts = 16

func (e *encoder) verdict(v Verdict) {
	e.separate()
	e.buf = append(e.buf, '{')
	e.text("action", v.Action)
	e.text("policy", v.Policy)
	e.optional("rule", v.Rule)
	e.optional("reason", v.Reason)
	e.close()
}

func (e *encoder) outcome(o *Outcome) {
	if o == nil {
		return
	}
	e.open("outcome")
	e.text("status", string(o.Status))
	e.optional("code", o.Code)
	e.number("rows", o.Rows)
	e.number("bytes", o.Bytes)
	e.number("duration_us", o.DurationUS)
	object(e, "masked", o.Masked, e.integer)
	e.close()
}

func (e *encoder) refusal(r *Refusal) {
	if r == nil {
		return
	}
	e.open("refusal")
	e.text("reason", r.Reason)
	e.optional("message", r.Message)
	e.optional("code", r.Code)
	e.close()
}

func (e *encoder) event(v *Event) {
	if v == nil {
		return
	}
	e.open("event")
	e.optional("reason", v.Reason)
	object(e, "detail", v.Detail, e.quote)
	e.close()
}

func (e *encoder) credential(c *Credential) {
	if c == nil {
		return
	}
	e.open("credential")
	e.text("source", c.Source)
	e.optionalList("targets", c.Targets)
	e.text("event", c.Event)
	e.optional("user", c.User)
	e.optional("version", c.Version)
	e.optional("reason", c.Reason)
	e.close()
}

func (e *encoder) policy(p *Policy) {
	if p == nil {
		return
	}
	e.open("policy")
	e.text("hash", p.Hash)
	e.optionalList("files", p.Files)
	e.optionalList("targets", p.Targets)
	e.close()
}

func (e *encoder) ledger(l *Ledger) {
	if l == nil {
		return
	}
	e.open("ledger")
	e.unsigned("seen", l.Seen)
	e.unsigned("redirected", l.Redirected)
	e.unsigned("refused", l.Refused)
	e.unsigned("dropped", l.Dropped)
	e.unsigned("sessions", l.Sessions)
	e.number("missing", l.Missing)
	e.close()
}

func (e *encoder) loss(l *Loss) {
	if l == nil {
		return
	}
	e.open("loss")
	e.text("log", l.Log)
	e.number("known", l.Known)
	e.number("found", l.Found)
	e.text("checkpoint", l.Checkpoint)
	e.close()
}

func (e *encoder) certified(k *Key) {
	if k == nil {
		return
	}
	e.open("key")
	e.text("public", k.Public)
	e.text("certificate", k.Certificate)
	e.close()
}

func (e *encoder) previous(p *Previous) {
	if p == nil {
		return
	}
	e.open("previous")
	e.text("log", p.Log)
	e.text("state", string(p.State))
	e.number("size", p.Size)
	e.text("root", p.Root)
	e.optional("checkpoint", p.Checkpoint)
	if r := p.Repair; r != nil {
		e.open("repair")
		e.number("leaf_bytes", r.LeafBytes)
		e.number("value_bytes", r.ValueBytes)
		e.number("lines", r.Lines)
		e.close()
	}
	e.close()
}
