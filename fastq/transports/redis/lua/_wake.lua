-- Wake up to `want` idle processes: latest own wake-up first, so the timekeeper comes last.
-- A woken process leaves `idle` here, so that the next wake goes to another one. A process whose channel nobody
-- hears is gone: the next one is taken.
local function wake(idle, prefix, want)
  local woken = 0
  while woken < want do
    local names = redis.call('ZREVRANGE', idle, 0, want - woken - 1)
    if #names == 0 then
      break
    end
    redis.call('ZREM', idle, unpack(names, 1, math.min(#names, 1000)))
    for i = 1, math.min(#names, 1000) do
      if redis.call('PUBLISH', prefix .. names[i], 'w') > 0 then
        woken = woken + 1
      end
    end
  end
  return woken
end
