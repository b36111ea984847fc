-- Wake the timekeeper if it sleeps beyond `due` (or any idle process if none keeps time): it must look again.
local function early(idle, prefix, due)
  local keeper = redis.call('ZRANGE', idle, 0, 0, 'WITHSCORES')
  while keeper[1] and tonumber(keeper[2]) > due do
    redis.call('ZREM', idle, keeper[1])
    if redis.call('PUBLISH', prefix .. keeper[1], 'w') > 0 then
      return
    end
    keeper = redis.call('ZRANGE', idle, 0, 0, 'WITHSCORES')
  end
end
