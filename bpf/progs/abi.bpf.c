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
	struct socket_value socket_value;
	struct flow_event flow_event;
	struct datapath_state datapath_state;
	struct drop_key drop_key;
	struct drop_value drop_value;
	enum reserved_identity reserved_identity;
	enum direction direction;
	enum verdict verdict;
	enum policy_flags policy_flags;
	enum backend_state backend_state;
	enum flow_flags flow_flags;
	enum hook hook;
	enum drop_reason drop_reason;
};

union abi whit_abi;
