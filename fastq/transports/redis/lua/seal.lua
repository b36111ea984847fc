-- Keep the joins that a publish call has opened, now that all of its messages are kept.
--
-- KEYS  from:<producer> of each queue of the call, then joins
-- ARGV  per from:<producer>: sequence of the last part there
-- Returns  0, or -1: a part is missing, so nothing was done
--
-- A join that was closed or dropped meanwhile has a TTL, or none, of its own: only an unsealed one is touched. HDEL and PERSIST are
-- allowed when Redis is out of memory.
for i = 1, #ARGV do
  if tonumber(redis.call('GET', KEYS[i]) or -1) < tonumber(ARGV[i]) then
    return -1
  end
end
for i = #ARGV + 1, #KEYS do
  if redis.call('HDEL', KEYS[i], 'unsealed') == 1 then
    redis.call('PERSIST', KEYS[i])
  end
end
return 0
