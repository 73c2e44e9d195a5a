package kernel

import "github.com/faultline-vm/faultline/guest"

// unrolledSpans bounds the code that a pass becomes.
const unrolledSpans = 8

// pass emits a loop over all pages in the workload's order. Its labels begin with
// name. Enter is emitted where a page begins: it may jump to the label that it is
// given to skip the page, and leaves the page's seed in rbp. Word is emitted where
// rax holds what the word at its operand shall be.
//
// This is where emulated guests spend their time: about a microsecond for each
// instruction. Hence up to unrolledSpans spans without a branch between them, and
// ten instructions per word.
func (p *program) pass(name string, enter func(next string), word func(at mem)) {
	page, words, next, wrapped := name+" page", name+" words", name+" next", name+" wrapped"
	spans := int32(p.w.Words / 2) // see guest.FillPage
	span := guest.PageSize / spans
	round := min(spans, unrolledSpans) * span

	p.movImm(rsi, 0)
	p.movImm(r8, p.w.Pages)
	p.movImm(r9, p.w.Spread*guest.PageSize)
	p.movImm(r10, p.w.Step%p.w.Pages)
	p.movImm(r11, p.w.Pages)

	p.label(page)
	enter(next)
	p.mov(rdi, rsi)
	p.imul(rdi, r9)
	p.arithImm(add, rdi, guest.BaseAddress)
	p.mov(rdx, rsi)
	p.imul(rdx, r12)
	p.arith(add, rdx, rbp)

	p.label(words)
	for at := int32(0); at < round; at += span {
		for _, offset := range []int32{at, at + span - 8} {
			p.mix()
			word(mem{rdi, offset})
			p.arith(add, rdx, r13)
		}
	}
	if round < guest.PageSize {
		p.arithImm(add, rdi, round)
		p.testImm(rdi, guest.PageSize-1) // rounds divide pages: the last one ends at a multiple
		p.jumpIf(notEqual, words)
	}

	p.label(next)
	p.arith(add, rsi, r10)
	p.arith(compare, rsi, r11)
	p.jumpIf(below, wrapped)
	p.arith(sub, rsi, r11)
	p.label(wrapped)
	p.arithImm(sub, r8, 1)
	p.jumpIf(notEqual, page)
}

// mix puts guest.Mix of rdx into rax.
func (p *program) mix() {
	p.mov(rax, rdx)
	p.shift(shr, rax, 31)
	p.arith(xor, rax, rdx)
	p.imul(rax, r14)
	p.mov(rcx, rax)
	p.shift(shr, rcx, 29)
	p.arith(xor, rax, rcx)
}

// pace waits until the next page may be visited, if the workload has a rate. It
// waits while 0 ≤ r15 - now ≤ interval: a moment that lies further ahead comes
// from a cycle counter that has jumped, and is not waited for.
func (p *program) pace(name string) {
	if p.interval == 0 {
		return
	}
	wait, visit := name+" pace", name+" visit"
	p.movImm(rbp, p.interval+1)
	p.label(wait)
	p.rdtsc()
	p.shift(shl, rdx, 32)
	p.arith(or, rax, rdx)
	p.mov(rcx, r15)
	p.arith(sub, rcx, rax)
	p.arith(compare, rcx, rbp)
	p.jumpIf(notBelow, visit)
	p.pause()
	p.jump(wait)
	p.label(visit)
	p.mov(r15, rax)
	p.arith(add, r15, rbp)
	p.arithImm(sub, r15, 1)
}
