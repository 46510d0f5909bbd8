import { Navigate } from '@tanstack/react-router'
import { whoAmI } from '../../../src/api/control/people.ts'
import { listProjects } from '../../../src/api/control/projects.ts'
import { NewProject } from '../parts/new-project.tsx'
import { Problem } from '../parts/problem.tsx'
import { useAnswer } from '../service.ts'

/** Where somebody begins: in the first project that they may see. */
export function FirstProject() {
  const { data, error } = useAnswer(listProjects, { query: { limit: 1 } })
  const hasOrganisation = (useAnswer(whoAmI, {}).data?.organisations ?? []).length > 0
  if (error) return <Problem error={error} />
  const [project] = data?.items ?? []
  if (project !== undefined) return <Navigate to="/projects/$project" params={{ project: project.name }} />
  if (data === undefined) return null
  return (
    <>
      <p className="empty">
        You belong to no project yet. An admin of one can add you{hasOrganisation && ', or you make one'}.
      </p>
      <NewProject />
    </>
  )
}
