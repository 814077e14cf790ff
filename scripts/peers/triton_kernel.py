"""The decode attention that the peers' rows are about, in Triton: paged, one query group a program, keys and values of 16, 8 or 4 bits.

A code's byte holds dimensions `d` and `d + D/2` at 4 bits; scale and zero point of a token are f16, and stay out of the products.
"""

import triton
import triton.language as tl


@triton.jit
def decode(q, keys, values, key_scale, key_zero, value_scale, value_zero, table, lengths, out, scale, table_len,
           KEYS: tl.constexpr, VALUES: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr,
           D: tl.constexpr, PAGE: tl.constexpr, BLOCK: tl.constexpr):
    request, head = tl.program_id(0), tl.program_id(1)
    length = tl.load(lengths + request)
    rows, dims, half, slots = tl.arange(0, ROWS), tl.arange(0, D), tl.arange(0, D // 2), tl.arange(0, BLOCK)
    mine = rows[:, None] < GROUP
    first = (request * KV_HEADS + head) * GROUP
    at = (first + rows)[:, None] * D
    if KEYS == 4:
        query_low = tl.load(q + at + half[None, :], mask=mine, other=0.0)
        query_high = tl.load(q + at + D // 2 + half[None, :], mask=mine, other=0.0)
        query_sum = tl.sum(query_low.to(tl.float32), 1) + tl.sum(query_high.to(tl.float32), 1)
    else:
        query = tl.load(q + at + dims[None, :], mask=mine, other=0.0)
        query_sum = tl.sum(query.to(tl.float32), 1)
    top = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    offset = tl.zeros([ROWS], tl.float32)
    if VALUES == 4:
        low = tl.zeros([ROWS, D // 2], tl.float32)
        high = tl.zeros([ROWS, D // 2], tl.float32)
    else:
        whole = tl.zeros([ROWS, D], tl.float32)
    for start in range(0, length, BLOCK):
        token = start + slots
        valid = token < length
        page = tl.load(table + request * table_len + token // PAGE, mask=valid, other=0)
        row = (page.to(tl.int64) * PAGE + token % PAGE) * KV_HEADS + head
        if KEYS == 4:
            k = tl.load(keys + row[None, :] * (D // 2) + half[:, None], mask=valid[None, :], other=0)
            logits = tl.dot(query_low, (k & 15).to(tl.float16)) + tl.dot(query_high, (k >> 4).to(tl.float16))
        else:
            k = tl.load(keys + row[None, :] * D + dims[:, None], mask=valid[None, :], other=0)
            logits = tl.dot(query, k.to(tl.float16))
        if KEYS < 16:
            ks = tl.load(key_scale + row, mask=valid, other=0.0).to(tl.float32)
            kz = tl.load(key_zero + row, mask=valid, other=0.0).to(tl.float32)
            logits = logits * ks[None, :] + query_sum[:, None] * kz[None, :]
        logits = tl.where(valid[None, :], logits * scale, -float("inf"))
        new_top = tl.maximum(top, tl.max(logits, 1))
        p = tl.exp2(logits - new_top[:, None])
        keep = tl.exp2(top - new_top)
        total = total * keep + tl.sum(p, 1)
        top = new_top
        if VALUES < 16:
            vs = tl.load(value_scale + row, mask=valid, other=0.0).to(tl.float32)
            vz = tl.load(value_zero + row, mask=valid, other=0.0).to(tl.float32)
            offset = offset * keep + tl.sum(p * vz[None, :], 1)
            p = p * vs[None, :]
        if VALUES == 4:
            v = tl.load(values + row[:, None] * (D // 2) + half[None, :], mask=valid[:, None], other=0)
            low = low * keep[:, None] + tl.dot(p.to(tl.float16), (v & 15).to(tl.float16))
            high = high * keep[:, None] + tl.dot(p.to(tl.float16), (v >> 4).to(tl.float16))
        else:
            v = tl.load(values + row[:, None] * D + dims[None, :], mask=valid[:, None], other=0)
            whole = whole * keep[:, None] + tl.dot(p.to(tl.float16), v.to(tl.float16))
    if VALUES == 4:
        tl.store(out + at + half[None, :], ((low + offset[:, None]) / total[:, None]).to(tl.float16), mask=mine)
        tl.store(out + at + D // 2 + half[None, :], ((high + offset[:, None]) / total[:, None]).to(tl.float16), mask=mine)
    else:
        tl.store(out + at + dims[None, :], ((whole + offset[:, None]) / total[:, None]).to(tl.float16), mask=mine)
