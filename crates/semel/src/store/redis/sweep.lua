-- Takes away what is past its time. KEYS: the records. ARGV, for each: now (8 bytes; zero asks the server), and until when
-- this may run, which matters to nobody. Answers how many records went: 0 or 1.

return each(function(key, at)
  local given = struct.unpack('>I8', ARGV[at])
  local now = given == 0 and server_ms or given
  local stamp, written, retention, trims, phase, whole = head_at(key)
  if stamp == false then
    return written
  end
  if not stamp then
    return 0
  end
  local age = math.max(0, now - written)
  if age >= retention then
    redis.call('DEL', key)
    return 1
  end
  if age >= trims then
    local left = redis.call('GETRANGE', key, HEAD + whole, -1)
    -- Never again: what is left is whole now.
    local tail = struct.pack('>I8I8BI4', retention, 2 ^ 53, phase, #left)
    redis.call('SET', key, head_of(stamp, written, tail) .. left, 'KEEPTTL')
  end
  return 0
end)
