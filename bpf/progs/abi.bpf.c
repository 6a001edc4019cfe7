/* SPDX-License-Identifier: Apache-2.0 */
/*
 * No program: keeps the type information of every struct and enum of abi.h and drops.h, from which
 * `python -m whit.datapath.generate` writes the Python side. The generator fails if one is missing here.
 */
#include "abi.h"
#include "drops.h"

/* By value, because clang leaves out what is reached only through pointers. */
union abi {
	struct address address;
	struct identity_key identity_key;
	struct identity_value identity_value;
	struct endpoint_key endpoint_key;
	struct endpoint_value endpoint_value;
	struct policy_key policy_key;
	struct policy_value policy_value;
	struct frontend_key frontend_key;
	struct frontend_value frontend_value;
	struct slot_key slot_key;
	struct backend_value backend_value;
	struct flow_key flow_key;
	struct flow_value flow_value;
	struct fragment_key fragment_key;
	struct fragment_value fragment_value;
	struct socket_value socket_value;
	struct flow_event flow_event;
	struct end_event end_event;
	struct http_event http_event;
	struct hop_event hop_event;
	struct wake_event wake_event;
	struct request_value request_value;
	struct affinity_key affinity_key;
	struct affinity_value affinity_value;
	struct limit_value limit_value;
	struct edge_key edge_key;
	struct edge_value edge_value;
	struct datapath_state datapath_state;
	struct drop_key drop_key;
	struct drop_value drop_value;
	enum reserved_identity reserved_identity;
	enum direction direction;
	enum endpoint_flags endpoint_flags;
	enum frontend_flags frontend_flags;
	enum event_kind event_kind;
	enum http_method http_method;
	enum hop_step hop_step;
	enum verdict verdict;
	enum policy_flags policy_flags;
	enum backend_state backend_state;
	enum flow_flags flow_flags;
	enum hook hook;
	enum drop_reason drop_reason;
};

union abi whit_abi;
