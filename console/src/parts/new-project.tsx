import { useNavigate } from '@tanstack/react-router'
import type { FormEvent } from 'react'
import { whoAmI } from '../../../src/api/control/people.ts'
import { createProject } from '../../../src/api/control/projects.ts'
import { service, useAnswer, useDeed } from '../service.ts'
import { Problem } from './problem.tsx'
import { namePattern } from './upload.tsx'

interface Project {
  readonly organisation: string
  readonly name: string
  readonly title: string
}

/** Makes a project in an organisation of whoever is signed in, and goes there. */
export function NewProject() {
  const navigate = useNavigate()
  const organisations = useAnswer(whoAmI, {}).data?.organisations ?? []
  const make = useDeed(
    ({ organisation, ...body }: Project) => service.call(createProject, { params: { organisation }, body }),
    ['projects.', 'people.'],
    ({ name }) => void navigate({ to: '/projects/$project', params: { project: name } }),
  )
  if (organisations.length === 0) return null
  const send = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    const given = new FormData(event.currentTarget)
    const text = (name: string) => String(given.get(name)).trim()
    make.mutate({ organisation: text('organisation'), name: text('project'), title: text('title') })
  }
  return (
    <>
      <form onSubmit={send} className="row">
        <label>
          New project
          <input name="project" required pattern={namePattern} spellCheck={false} />
        </label>
        <label>
          What people call it (if you like)
          <input name="title" maxLength={200} />
        </label>
        <label>
          Of the organisation
          <select name="organisation">
            {organisations.map(({ id, name }) => (
              <option key={id} value={id}>
                {name}
              </option>
            ))}
          </select>
        </label>
        <button type="submit" disabled={make.isPending}>
          Make it
        </button>
      </form>
      <Problem error={make.error} />
    </>
  )
}
