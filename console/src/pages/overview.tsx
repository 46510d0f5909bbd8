import { viewProject } from '../../../src/api/control/projects.ts'
import { Problem } from '../parts/problem.tsx'
import { useProject } from '../project.ts'
import { useAnswer } from '../service.ts'
import { DeploymentTable } from './deployments.tsx'
import { JobTable } from './jobs.tsx'

const jobsShown = 8

export function Overview() {
  const project = useProject()
  const { data, error } = useAnswer(viewProject, { params: { project } })
  if (error) return <Problem error={error} />
  return (
    <>
      <h1>{data?.title || project}</h1>
      <h2>Deployments</h2>
      <DeploymentTable project={project} />
      <h2>Newest jobs</h2>
      <JobTable project={project} limit={jobsShown} />
    </>
  )
}
