-- A letter's head is an array of reason and detail, and of a third element for the body of a chord: the key of the join that is kept
-- for it. The name of such a letter begins with '+': of all others nothing is read when they go.
local function letter_name(name, head)
  if string.byte(head, 1) == 147 then
    return '+' .. name
  end
  return name
end

-- Return the key of the join that a letter keeps, nil if it keeps none. It is in the slot of the queue.
local function kept_join(name, record)
  if not record or string.byte(name, 1) ~= 43 then
    return nil
  end
  local size, head = string.match(record, '^%d+:%d:(%d+):()')
  if not size then
    return nil
  end
  local readable, value = pcall(cmsgpack.unpack, string.sub(record, head, head + tonumber(size) - 1))
  return readable and type(value) == 'table' and type(value[3]) == 'string' and value[3] or nil
end

-- Drop dead letters, `names[first]` to `names[last]`, and the joins that were kept for them. Returns how many there were.
local function unbury(dead, messages, names, first, last)
  local gone = 0
  redis.call('ZCARD', dead)
  for from = first, last, 1000 do
    local upto = math.min(from + 999, last)
    local joins = {}
    for i = from, upto do
      if string.byte(names[i], 1) == 43 then
        joins[#joins + 1] = kept_join(names[i], redis.call('HGET', messages, names[i]))
      end
    end
    gone = gone + redis.call('HDEL', messages, unpack(names, from, upto))
    redis.call('ZREM', dead, unpack(names, from, upto))
    for _, join in ipairs(joins) do
      redis.call('UNLINK', join)
    end
  end
  return gone
end

-- Drop expired dead letters and those over the cap, oldest first, about as many as were added plus 100.
local function trim(dead, messages, now, most, keep_s, added)
  local old = redis.call('ZRANGEBYSCORE', dead, '-inf', string.format('%.0f', (now - keep_s * 1000) * 1000), 'LIMIT', 0, added + 100)
  if #old == 0 then
    local over = redis.call('ZCARD', dead) - most
    if over > 0 then
      old = redis.call('ZRANGE', dead, 0, math.min(over, added + 100) - 1)
    end
  end
  unbury(dead, messages, old, 1, #old)
end
