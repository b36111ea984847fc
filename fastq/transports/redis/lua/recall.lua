-- Recall the turns that delayed messages were given by buckets of a rate limit: one bounded step. They go to the head of their
-- levels, in the order of their turns, and have paid no more.
--
-- KEYS  1 delayed, 2 idle, 3 levels, 4 to 13 ready lists of levels 0 to 9
-- ARGV  1 prefix of the wake channels, 2 name of the limit: its buckets are that name, and all that begin with it and a |,
--       3 the bucket whose turns are kept, '': none, 4 look at these places and earlier ones (an end of a range of scores),
--       5 how many with just that place are passed over, 6 how many messages are looked at, 7 bytes of messages after which no
--       further one is read, 8 '1': only say what would be recalled
-- Returns  {how many turns were recalled, the place to go on from ('': all was looked at), how many there are to be passed over,
--          the buckets they were of...}
--
-- The latest first, so that the earliest ends at the head. A nonce that begins with \1 is followed by the bucket, and a \0.
-- ZREM is the first write: it is allowed when Redis is out of memory.
-- include: push
-- include: heads
-- include: baton
local delayed, READY = KEYS[1], 4
local name, kept, most, bytes = ARGV[2], ARGV[3], tonumber(ARGV[6]), tonumber(ARGV[7])
local prefix = name .. '|'

local function bucket_of(member)
  if string.byte(member, 3) ~= 1 then
    return nil
  end
  local bucket = string.match(string.sub(member, 4, 2 + string.byte(member, 2)), '^(%Z*)%z')
  if bucket and bucket ~= kept and (bucket == name or string.sub(bucket, 1, #prefix) == prefix) then
    return bucket
  end
end

-- As it was before it paid: without its mark, if that says nothing else.
local function unpaid(message)
  local first, second = string.byte(message, 1, 2)
  if first ~= 193 or not second or second < 128 then
    return message
  elseif second == 128 then
    return string.sub(message, 3)
  end
  return string.sub(message, 1, 1) .. string.char(second - 128) .. string.sub(message, 3)
end

for level = 0, 9 do
  redis.call('LLEN', KEYS[READY + level])
end
redis.call('SCARD', KEYS[3])
redis.call('ZCARD', KEYS[2])
local place, over, looked, size = ARGV[4], tonumber(ARGV[5]), 0, 0
local gone, back, buckets, seen, left = {}, {}, {}, {}, over
while looked < most and size < bytes do
  -- A few at once, so that large messages are not all read for the sake of their number; more where they are small.
  local count = math.min(looked > 0 and size < 1000 * looked and 200 or 20, most - looked)
  local items = redis.call('ZREVRANGEBYSCORE', delayed, place, '-inf', 'WITHSCORES', 'LIMIT', over, count)
  for i = 1, #items, 2 do
    local member, score = items[i], items[i + 1]
    if score ~= place then
      place, over, left = score, 0, 0
    end
    over, size = over + 1, size + #member
    local bucket = bucket_of(member)
    if bucket then
      local level = string.byte(member, 1) - 48
      back[level] = back[level] or {}
      table.insert(back[level], unpaid(string.sub(member, 3 + string.byte(member, 2))))
      gone[#gone + 1] = member
      if not seen[bucket] then
        seen[bucket] = true
        buckets[#buckets + 1] = bucket
      end
    else
      left = left + 1
    end
  end
  looked = looked + #items / 2
  if #items < 2 * count then
    place = ''
    break
  end
end
if ARGV[8] == '1' then
  return {#gone, place, left, unpack(buckets)}
end
for from = 1, #gone, 1000 do
  redis.call('ZREM', delayed, unpack(gone, from, math.min(from + 999, #gone)))
end
heads(back, READY, KEYS[3])
if #gone > 0 then
  baton(KEYS[2], ARGV[1], KEYS[3], READY)
end
return {#gone, place, left, unpack(buckets)}
