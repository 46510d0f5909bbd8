import { createKey, listKeys, revokeKey } from '../../../src/api/control/keys.ts'
import { KeyList, NewKey } from '../parts/key-list.tsx'
import { Problem } from '../parts/problem.tsx'
import { useProject } from '../project.ts'
import { seldom, service, useAnswer } from '../service.ts'

const keysShown = 200

/** Keys of programs that ask this project. */
export function Keys() {
  const project = useProject()
  const query = { limit: keysShown }
  const { data, error } = useAnswer(listKeys, { params: { project }, query }, { every: seldom })
  return (
    <>
      <h1>Keys</h1>
      <NewKey changes="keys." make={(body) => service.call(createKey, { params: { project }, body })} />
      <h2>Keys of {project}</h2>
      <Problem error={error} />
      <KeyList
        keys={data?.items}
        empty="No keys yet. A program that asks this project needs one: make it above."
        changes="keys."
        revoke={(key) => service.call(revokeKey, { params: { project, key } })}
      />
      {data?.next && <p className="quiet">Only {keysShown} are shown; ropeway key list has them all.</p>}
    </>
  )
}
